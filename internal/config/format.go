package config

import (
	"time"

	"libvirt.org/go/libvirtxml"

	"brane/frame"
	"brane/internal/fault"
	"brane/internal/network"
)

// Format prints a definition as libvirt network XML; Parse reads it back. The
// uplink of a mux below another has no place there.
func Format(d network.Definition) ([]byte, error) {
	n := libvirtxml.Network{Name: d.Name, UUID: d.UUID}
	if d.Forward == network.NAT {
		n.Forward = &libvirtxml.NetworkForward{Mode: "nat", Dev: d.Device}
		for _, s := range d.Subnets {
			if s.Gateway.Addr().Is6() { // libvirt translates IPv6 only when told to
				n.Forward.NAT = &libvirtxml.NetworkForwardNAT{IPv6: "yes"}
			}
		}
	}
	if d.MTU != 0 {
		n.MTU = &libvirtxml.NetworkMTU{Size: uint(d.MTU)}
	}
	if d.MAC != (frame.MAC{}) {
		n.MAC = &libvirtxml.NetworkMAC{Address: d.MAC.String()}
	}
	if d.Domain != "" {
		n.Domain = &libvirtxml.NetworkDomain{Name: d.Domain}
	}
	if len(d.Hosts) > 0 {
		n.DNS = &libvirtxml.NetworkDNS{}
		for _, h := range d.Hosts {
			host := libvirtxml.NetworkDNSHost{IP: h.Addr.String()}
			for _, name := range h.Names {
				host.Hostnames = append(host.Hostnames, libvirtxml.NetworkDNSHostHostname{Hostname: name})
			}
			n.DNS.Host = append(n.DNS.Host, host)
		}
	}
	for _, s := range d.Subnets {
		n.IPs = append(n.IPs, formatIP(s))
	}
	text, err := n.Marshal()
	if err != nil {
		return nil, fault.New(fault.Internal, "print network", d.Name, "%v", err)
	}
	return []byte(text + "\n"), nil
}

func formatIP(s network.Subnet) libvirtxml.NetworkIP {
	ip := libvirtxml.NetworkIP{Address: s.Gateway.Addr().String(), Prefix: uint(s.Gateway.Bits())}
	if s.Gateway.Addr().Is6() {
		ip.Family = "ipv6"
	}
	if !s.DHCP {
		return ip
	}
	ip.DHCP = &libvirtxml.NetworkDHCP{}
	for _, r := range s.Ranges {
		ip.DHCP.Ranges = append(ip.DHCP.Ranges, libvirtxml.NetworkDHCPRange{
			Start: r.Start.String(), End: r.End.String(), Lease: formatLease(r.Lease),
		})
	}
	for _, h := range s.Hosts {
		host := libvirtxml.NetworkDHCPHost{Name: h.Name, IP: h.Addr.String(), Lease: formatLease(h.Lease)}
		if h.MAC != (frame.MAC{}) {
			host.MAC = h.MAC.String()
		}
		ip.DHCP.Hosts = append(ip.DHCP.Hosts, host)
	}
	return ip
}

func formatLease(d time.Duration) *libvirtxml.NetworkDHCPLease {
	switch {
	case d == 0:
		return nil
	case d < 0:
		return &libvirtxml.NetworkDHCPLease{Expiry: 0}
	case d%time.Minute == 0:
		return &libvirtxml.NetworkDHCPLease{Expiry: uint(d / time.Minute), Unit: "minutes"}
	}
	return &libvirtxml.NetworkDHCPLease{Expiry: uint(d / time.Second), Unit: "seconds"}
}
