// Package stack is the TCP/IP of a network's gateway: it carries connections,
// datagrams and pings between guests and ordinary sockets of the host, leads
// host ports to guests, and gives the gateway's own services their sockets. It
// needs no privilege.
//
// # Theory of operation
//
// A frame for the gateway comes in through Deliver, on the goroutine of the
// port that sent it, which must not wait and from which nothing may be sent:
//
//	Deliver ── parse, checksums, TTL ──┬─ ARP, ND, echo of its own addresses: answered ─┐
//	            fragments: reassembler ├─ UDP, echo: flow table ─► connected host socket  ├─► egress queue ─► out
//	                                   ├─ UDP to a service: its queue                     │
//	                                   └─ TCP: netstack, which queues ────────────────────┘ (resets, errors)
//
// What comes back has goroutines that may call out: one for each flow's host
// socket, two for each TCP connection (a relay), and netstack's own.
//
// TCP. Netstack (gVisor) speaks TCP to guests for every address outside. A SYN
// is judged by policy, charged to its guest, and the outside is dialed; only
// when that succeeds does netstack answer the SYN. A relay then joins the two
// ends. It moves large pieces, because wake-ups cost more than copies, and
// leaves what one end does not take in the buffer of the other: what a guest
// can make the gateway hold is the sum of buffers charged to it. Superframes
// pass both ways; netstack never cuts or joins segments.
//
// UDP and echo. A flow is a guest's address and port (or echo identifier) and a
// destination; it has one connected host socket, so the host's kernel does the
// translation and decides which ICMP errors belong to it. Those come off the
// socket's error queue and go to the guest as from the router that made them.
// A flow ends when it is idle (RFC 4787, RFC 5508), or when its guest, or the
// heaviest guest, needs room for another: least recently used first.
//
// Refusals are answered at once: a reset for TCP, ICMP for the rest. Policy is
// the second line of defence here; the first are the filters at the port.
//
// Locks: config before mu; a udpForward's lock before mu; mu, the tables' and
// the queues' locks are leaves, and no packet is sent under any of them, because
// out may lead into a multiplexer that is delivering to this gateway.
//
// # Ideal and reality
//
// A round trip costs four goroutine wake-ups where one loop over epoll needs
// two: netstack processes segments on goroutines of its own. A translator
// without a TCP of its own, as passt is one, would not need them. Netstack
// acknowledges every segment at once, so a short exchange has a packet more
// than it needs. IPv6 fragments behind other extension headers are dropped. A
// host that does not answer a SYN is silence to the guest, not an ICMP error,
// and an unreachable one is a reset.
package stack
