// Package stack is the TCP/IP of a network's gateway: it carries connections,
// datagrams and pings between guests and ordinary sockets of the host, leads
// host ports to guests, and gives the gateway's own services their sockets. It
// needs no privilege.
package stack
