package stack

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"brane/frame"
)

// link is the network card of the TCP stack. It carries superframes both ways
// (host GSO): segments are cut by the last receiver, or never.
type link struct {
	mtu        func() int
	mac        func() frame.MAC
	bufs       *bufPool
	now, later func(to frame.MAC, buf []byte) // send at once; send from another goroutine
	dispatcher atomic.Pointer[stack.NetworkDispatcher]
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)

// MTU implements stack.LinkEndpoint.
func (l *link) MTU() uint32 { return uint32(l.mtu()) }

// SetMTU implements stack.LinkEndpoint; Update is the only way to change it.
func (l *link) SetMTU(uint32) {}

// MaxHeaderLength implements stack.LinkEndpoint.
func (l *link) MaxHeaderLength() uint16 { return frame.EthernetLen }

// LinkAddress implements stack.LinkEndpoint.
func (l *link) LinkAddress() tcpip.LinkAddress {
	m := l.mac()
	return tcpip.LinkAddress(m[:])
}

// SetLinkAddress implements stack.LinkEndpoint; Update is the only way to change it.
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements stack.LinkEndpoint. Checksums of what arrives are
// verified before it is injected.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload | stack.CapabilityResolutionRequired
}

// Attach implements stack.LinkEndpoint.
func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&d)
}

// IsAttached implements stack.LinkEndpoint.
func (l *link) IsAttached() bool { return l.dispatcher.Load() != nil }

// Wait implements stack.LinkEndpoint.
func (l *link) Wait() {}

// Close implements stack.LinkEndpoint.
func (l *link) Close() {}

// SetOnCloseAction implements stack.LinkEndpoint.
func (l *link) SetOnCloseAction(func()) {}

// ARPHardwareType implements stack.LinkEndpoint.
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader implements stack.LinkEndpoint.
func (l *link) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(frame.EthernetLen)).Encode(&header.EthernetFields{
		SrcAddr: l.LinkAddress(), DstAddr: pkt.EgressRoute.RemoteLinkAddress, Type: pkt.NetworkProtocolNumber,
	})
}

// ParseHeader implements stack.LinkEndpoint.
func (l *link) ParseHeader(*stack.PacketBuffer) bool { return true }

// GSOMaxSize implements stack.GSOEndpoint.
func (l *link) GSOMaxSize() uint32 { return maxIP }

// SupportedGSO implements stack.GSOEndpoint.
func (l *link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// inject hands a network datagram, which the stack keeps a copy of, to the stack.
func (l *link) inject(proto tcpip.NetworkProtocolNumber, ip []byte) {
	d := l.dispatcher.Load()
	if d == nil {
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		Payload: buffer.MakeWithView(buffer.NewViewWithData(ip)),
	})
	(*d).DeliverNetworkPacket(proto, pkt)
	pkt.DecRef()
}

// WritePackets implements stack.LinkEndpoint.
//
// The stack's own goroutines send TCP segments: those go out at once. All else
// (resets, neighbour solicitations) may be an answer from within Deliver, which
// must not call out: it is queued.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	list := pkts.AsSlice()
	b := l.bufs.get()
	defer l.bufs.put(b)
	for i, pkt := range list {
		buf := l.copyOut(b, pkt)
		if buf == nil {
			return i, &tcpip.ErrMessageTooLong{}
		}
		send := l.later
		if direct(pkt) {
			send = l.now
		}
		send(frame.MAC(buf[frame.VnetLen:]), buf)
	}
	return len(list), nil
}

func direct(pkt *stack.PacketBuffer) bool {
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber {
		return false
	}
	t := pkt.TransportHeader().Slice()
	return len(t) >= header.TCPMinimumSize && !header.TCP(t).Flags().Contains(header.TCPFlagRst)
}

// copyOut writes the frame of pkt, virtio-net header first, to b; nil when it does not fit.
func (l *link) copyOut(b *[bufSize]byte, pkt *stack.PacketBuffer) []byte {
	var v frame.Vnet
	size := pkt.Data().Size()
	if gso := &pkt.GSOOptions; gso.Type != stack.GSONone && gso.NeedsCsum {
		v.Flags = frame.VnetNeedsCsum
		v.CsumStart, v.CsumOffset = frame.EthernetLen+gso.L3HdrLen, gso.CsumOffset
		if size > int(gso.MSS) {
			v.GSOType, v.GSOSize, v.HdrLen = frame.GSOTCPv4, gso.MSS, uint16(pkt.HeaderSize())
			if gso.Type == stack.GSOTCPv6 {
				v.GSOType = frame.GSOTCPv6
			}
		}
	}
	if frame.VnetLen+pkt.Size() > bufSize {
		return nil
	}
	v.Put(b[:frame.VnetLen])
	n := frame.VnetLen
	for _, s := range pkt.AsSlices() {
		n += copy(b[n:], s)
	}
	return b[:n]
}
