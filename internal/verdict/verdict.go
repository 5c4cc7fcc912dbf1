// Package verdict is the closed list of what can become of a frame. Every
// frame that reaches a datapath ends in exactly one Reason, and it is counted:
// for each port and direction, in = delivered + dropped, per reason.
package verdict

// Reason says what became of a frame. The zero value is Delivered.
type Reason uint8

// The reasons. docs/verdicts.md explains each to the reader; a test keeps the
// two lists equal.
const (
	Delivered     Reason = iota
	Runt                 // shorter than an Ethernet header
	Oversize             // longer than the port's MTU allows
	Malformed            // lengths inside the frame contradict each other
	VnetHeader           // the virtio-net header contradicts the frame
	SourceMAC            // rule clean: the source MAC is not the port's
	SourceIP             // rule clean: the source address is not the port's
	ARP                  // rule clean: ARP sender or target is not the port's to name
	ND                   // rule clean: neighbour discovery names what is not the port's
	RouterAdvert         // rule clean: router advertisement or redirect from a port that is no router
	DHCPServer           // rule clean: a DHCP server's message from a port that serves none
	VLAN                 // rule clean: a VLAN tag
	LLC                  // rule clean: 802.3 length or LLC instead of an EtherType
	EtherType            // rule clean: a protocol that the rule does not know
	LinkLocal            // 01:80:c2:00:00:0x is never forwarded
	SendFilter           // a send filter said no
	ReceiveFilter        // a receive filter said no
	Undecidable          // a filter could not decide: truncated, fragment, header chain over the limit
	Host                 // rule guard: an address of the host, link-local or metadata
	Rate                 // over the port's rate of broadcast and multicast
	MACMoved             // the source MAC is pinned to another port
	Hairpin              // the destination is behind the port that it came from
	NoReceiver           // no port takes it
	QueueFull            // the receiver's queue is full
	TooBig               // larger than the receiver's MTU and not to be segmented
	Closed               // the receiver's port is closing
	Internal             // a fault of the datapath, isolated to its port
	count
)

// Count is the number of reasons; arrays of counters have this length.
const Count = int(count)

var names = [Count]string{
	"delivered", "runt", "oversize", "malformed", "vnet-header", "source-mac", "source-ip", "arp", "nd",
	"router-advert", "dhcp-server", "vlan", "llc", "ethertype", "link-local", "send-filter", "receive-filter",
	"undecidable", "host", "rate", "mac-moved", "hairpin", "no-receiver", "queue-full", "too-big", "closed", "internal",
}

// String is the reason's word in the CLI, the API and the docs.
func (r Reason) String() string {
	if int(r) < Count {
		return names[r]
	}
	return "unknown"
}

// Parse is the inverse of String.
func Parse(s string) (Reason, bool) {
	for i, n := range names {
		if n == s {
			return Reason(i), true
		}
	}
	return 0, false
}

// MarshalText and UnmarshalText make the word the JSON form.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads the word; an unknown one reads as Internal.
func (r *Reason) UnmarshalText(b []byte) error {
	v, ok := Parse(string(b))
	if !ok {
		v = Internal
	}
	*r = v
	return nil
}
