package frame

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"pgregory.net/rapid"
)

// tb is what the oracle needs of testing.T and rapid.T.
type tb interface {
	Helper()
	Errorf(string, ...any)
}

// reading is what the other parser finds in a frame before any tunnel begins.
type reading struct {
	eth     *layers.Ethernet
	tags    []*layers.Dot1Q
	arp     *layers.ARP
	network gopacket.Layer
	l4      gopacket.Layer
}

func read(o gopacket.Packet) (r reading) {
	for i, l := range o.Layers() {
		switch l := l.(type) {
		case *layers.Ethernet:
			if i > 0 {
				return r
			}
			r.eth = l
		case *layers.Dot1Q:
			r.tags = append(r.tags, l)
		case *layers.ARP:
			r.arp = l
			return r
		case *layers.IPv4:
			if r.network != nil {
				return r
			}
			r.network = l
		case *layers.IPv6:
			if r.network != nil {
				return r
			}
			r.network = l
		case *layers.IPv6HopByHop, *layers.IPv6Routing, *layers.IPv6Destination, *layers.IPv6Fragment:
		case *layers.IPSecAH:
			if r.network.LayerType() == layers.LayerTypeIPv4 {
				return r // a protocol of its own there
			}
		default:
			r.l4 = l
			return r
		}
	}
	return r
}

// compare holds p against another parser's reading of the same bytes, layer by
// layer, and returns the name of the deepest layer compared.
func compare(t tb, p *Packet, o gopacket.Packet) string {
	t.Helper()
	r := read(o)
	if r.eth == nil || !bytes.Equal(r.eth.DstMAC, p.Dst[:]) || !bytes.Equal(r.eth.SrcMAC, p.Src[:]) || int(p.Tags) != min(len(r.tags), MaxTags+1) {
		t.Errorf("%s: oracle %v, %d tags", p, r.eth, len(r.tags))
		return "wrong"
	}
	if id, ok := p.VLAN(); ok && id != r.tags[0].VLANIdentifier {
		t.Errorf("%s: VLAN %d, oracle %d", p, id, r.tags[0].VLANIdentifier)
	}
	if a := r.arp; a != nil {
		m, ok := p.ARP()
		if !ok || m.Op != a.Operation || !bytes.Equal(m.SenderMAC[:], a.SourceHwAddress) || !bytes.Equal(m.TargetMAC[:], a.DstHwAddress) ||
			!bytes.Equal(m.SenderIP.AsSlice(), a.SourceProtAddress) || !bytes.Equal(m.TargetIP.AsSlice(), a.DstProtAddress) {
			t.Errorf("%s: ARP %+v, oracle %+v", p, m, a)
		}
		return "arp"
	}
	switch n := r.network.(type) {
	case *layers.IPv4:
		if !addrIs(p.Source(), n.SrcIP) || !addrIs(p.Destination(), n.DstIP) || p.Proto != uint8(n.Protocol) {
			t.Errorf("%s: oracle %v > %v %v", p, n.SrcIP, n.DstIP, n.Protocol)
		}
		later, first := n.FragOffset > 0, n.FragOffset == 0 && n.Flags&layers.IPv4MoreFragments != 0
		if (p.Fragment == Later) != later || (p.Fragment == First) != first {
			t.Errorf("%s: fragment %d, oracle offset %d flags %v", p, p.Fragment, n.FragOffset, n.Flags)
		}
		if p.L4 > 0 && p.L4 != p.L3+int(n.IHL)*4 || p.End != p.L3+int(n.Length) {
			t.Errorf("%s: L4 %d end %d, oracle %d %d", p, p.L4, p.End, n.IHL, n.Length)
		}
	case *layers.IPv6:
		if !addrIs(p.Source(), n.SrcIP) || !addrIs(p.Destination(), n.DstIP) || p.End != p.L3+40+int(n.Length) {
			t.Errorf("%s: oracle %v > %v, %d bytes", p, n.SrcIP, n.DstIP, n.Length)
		}
	default:
		return "link"
	}
	return compareL4(t, p, r.l4)
}

func addrIs(a netip.Addr, ip net.IP) bool {
	b, ok := netip.AddrFromSlice(ip)
	return ok && (a == b || a == b.Unmap())
}

func compareL4(t tb, p *Packet, oracle gopacket.Layer) string {
	t.Helper()
	src, dst, _ := p.Ports()
	kind, code, isICMP := p.ICMP()
	same, name := true, "ip"
	switch l := oracle.(type) {
	case *layers.TCP:
		name = "tcp"
		flags, ok := p.TCPFlags()
		same = ok && src == uint16(l.SrcPort) && dst == uint16(l.DstPort) && bytes.Equal(p.Payload(), l.Payload)
		for i, set := range []bool{l.FIN, l.SYN, l.RST, l.PSH, l.ACK, l.URG, l.ECE, l.CWR} {
			same = same && (flags>>i&1 != 0) == set
		}
	case *layers.UDP:
		name = "udp"
		same = p.Proto == ProtoUDP && src == uint16(l.SrcPort) && dst == uint16(l.DstPort) && bytes.Equal(p.Payload(), l.Payload)
	case *layers.ICMPv4:
		name = "icmp"
		same = isICMP && kind == l.TypeCode.Type() && code == l.TypeCode.Code()
	case *layers.ICMPv6:
		name = "icmp6"
		same = isICMP && kind == l.TypeCode.Type() && code == l.TypeCode.Code()
	}
	if !same {
		t.Errorf("%s: oracle %s", p, gopacket.LayerString(oracle))
	}
	return name
}

// drawFrame builds a valid frame with the other library's serializer.
func drawFrame(t *rapid.T) []byte {
	var stack []gopacket.SerializableLayer
	etherType := rapid.SampledFrom([]layers.EthernetType{layers.EthernetTypeIPv4, layers.EthernetTypeIPv6}).Draw(t, "type")
	mac := rapid.SliceOfN(rapid.Byte(), 6, 6)
	eth := &layers.Ethernet{SrcMAC: mac.Draw(t, "src"), DstMAC: mac.Draw(t, "dst"), EthernetType: etherType}
	stack = append(stack, eth)
	if tags := rapid.IntRange(0, 2).Draw(t, "tags"); tags > 0 {
		eth.EthernetType = rapid.SampledFrom([]layers.EthernetType{layers.EthernetTypeDot1Q, layers.EthernetTypeQinQ}).Draw(t, "tpid")
		for i := range tags {
			inner := layers.EthernetTypeDot1Q
			if i == tags-1 {
				inner = etherType
			}
			stack = append(stack, &layers.Dot1Q{VLANIdentifier: rapid.Uint16Range(0, 4095).Draw(t, "id"), Type: inner})
		}
	}
	proto := rapid.SampledFrom([]layers.IPProtocol{6, 17, 1, 58}).Draw(t, "proto")
	var network gopacket.NetworkLayer
	if etherType == layers.EthernetTypeIPv4 {
		ip := &layers.IPv4{
			Version: 4, TTL: rapid.Byte().Draw(t, "ttl"), Protocol: proto, Id: rapid.Uint16().Draw(t, "id"),
			SrcIP: rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "from"), DstIP: rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "to"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "options") {
			ip.Options = append(ip.Options, layers.IPv4Option{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}})
		}
		network, stack = ip, append(stack, ip)
	} else {
		ip := &layers.IPv6{
			Version: 6, HopLimit: rapid.Byte().Draw(t, "ttl"), NextHeader: proto,
			SrcIP: rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "from"), DstIP: rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "to"),
		}
		network, stack = ip, append(stack, ip)
		if rapid.Bool().Draw(t, "destination options") {
			ip.NextHeader = layers.IPProtocolIPv6Destination
			opts := &layers.IPv6Destination{}
			opts.NextHeader = proto
			opts.Options = []*layers.IPv6DestinationOption{{OptionType: 30, OptionData: make([]byte, 4+8*rapid.IntRange(0, 5).Draw(t, "size"))}}
			stack = append(stack, opts)
		}
	}
	stack = append(stack, drawTransport(t, proto, network)...)
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func drawTransport(t *rapid.T, proto layers.IPProtocol, network gopacket.NetworkLayer) []gopacket.SerializableLayer {
	payload := gopacket.Payload(rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "payload"))
	src, dst := rapid.Uint16().Draw(t, "sport"), rapid.Uint16().Draw(t, "dport")
	var err error
	var l gopacket.SerializableLayer
	switch proto {
	case layers.IPProtocolTCP:
		tcp := &layers.TCP{
			SrcPort: layers.TCPPort(src), DstPort: layers.TCPPort(dst), Seq: rapid.Uint32().Draw(t, "seq"),
			SYN: rapid.Bool().Draw(t, "syn"), ACK: rapid.Bool().Draw(t, "ack"), PSH: rapid.Bool().Draw(t, "psh"), CWR: rapid.Bool().Draw(t, "cwr"),
		}
		if rapid.Bool().Draw(t, "timestamps") {
			tcp.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)}}
		}
		l, err = tcp, tcp.SetNetworkLayerForChecksum(network)
	case layers.IPProtocolUDP:
		udp := &layers.UDP{SrcPort: layers.UDPPort(src), DstPort: layers.UDPPort(dst)}
		l, err = udp, udp.SetNetworkLayerForChecksum(network)
	case layers.IPProtocolICMPv4:
		l = &layers.ICMPv4{TypeCode: layers.ICMPv4TypeCode(src), Id: dst}
	default:
		icmp := &layers.ICMPv6{TypeCode: layers.ICMPv6TypeCode(src)}
		l, err = icmp, icmp.SetNetworkLayerForChecksum(network)
		payload = append(payload, 0, 0, 0, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return []gopacket.SerializableLayer{l, payload}
}

func TestParseAgainstOracle(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		b := drawFrame(t)
		o := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.NoCopy)
		p := parsed(append(b[:len(b):len(b)], make([]byte, rapid.IntRange(0, 20).Draw(t, "padding"))...))
		if p.Fault != OK {
			t.Fatalf("%s: a fault in a frame without", p)
		}
		// ICMP over the wrong network is no ICMP to us; its serializer there is anybody's guess.
		if foreign := p.Type == TypeIPv4 && p.Proto == ProtoICMPv6 || p.Type == TypeIPv6 && p.Proto == ProtoICMP; foreign {
			return
		}
		if !Verify(p) {
			t.Fatalf("%s: the oracle's checksum is found wrong", p)
		}
		seen[compare(t, p, o)]++
	})
	for _, kind := range []string{"tcp", "udp", "icmp", "icmp6"} {
		if seen[kind] == 0 {
			t.Errorf("no %s was compared", kind)
		}
	}
}

// Real frames of many protocols: where neither finds a fault, both read the same.
func TestParseCaptures(t *testing.T) {
	dir := filepath.Join("..", "..", "shared", "corpus", "pcap-filter", "captures")
	files, err := filepath.Glob(filepath.Join(dir, "*.pcap"))
	if err != nil || len(files) == 0 {
		if os.Getenv("CI") != "" {
			t.Fatalf("no captures in %s", dir)
		}
		t.Skipf("no captures in %s", dir)
	}
	seen := map[string]int{}
	for _, file := range files {
		for _, b := range readCapture(t, file) {
			o := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.NoCopy)
			p := parsed(b)
			if o.ErrorLayer() != nil {
				seen["unknown to the oracle"]++
				continue
			}
			if p.Fault != OK {
				t.Logf("%s: %s", filepath.Base(file), p)
				seen["fault"]++
				continue
			}
			seen[compare(t, p, o)]++
		}
	}
	t.Logf("compared: %v", seen)
	for _, kind := range []string{"udp", "icmp", "ip", "link"} {
		if seen[kind] == 0 {
			t.Errorf("no %s was compared", kind)
		}
	}
}

// readCapture gives the whole Ethernet frames of a file.
func readCapture(t *testing.T, file string) (frames [][]byte) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if r.LinkType() != layers.LinkTypeEthernet {
		return nil
	}
	for {
		b, info, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return frames
		}
		if err != nil {
			if strings.Contains(err.Error(), "unexpected EOF") {
				return frames
			}
			t.Fatalf("%s: %v", file, err)
		}
		if info.CaptureLength == info.Length {
			frames = append(frames, b)
		}
	}
}
