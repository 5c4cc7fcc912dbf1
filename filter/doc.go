// Package filter is the language in which Brane says which frames may pass,
// and the rules that stand on every port.
//
// # Language
//
// Parse reads pcap-filter(7) expressions: host, net, port, portrange and proto
// with their directions, the Ethernet forms, broadcast and multicast, less and
// greater, and relations over proto[offset:size]. Precedence is pcap's: not
// binds tightest, and/or are equal and associate to the left. Names are
// resolved from built-in tables; host names never are. What is not understood
// is an error with its byte position. Expr.String is canonical, and parsing it
// gives the same expression again.
//
// # Meaning
//
// A term over a frame is Yes, No or Undecidable (Kleene's logic): it is
// Undecidable when the header it speaks of cannot be read with certainty: cut
// off, in a later fragment, behind more extension headers than the parser
// walks, behind a VLAN tag, in an 802.3 frame, or with lengths that contradict
// each other. So "not tcp port 25" does not let a fragment by. There is only
// this one meaning, for policy and for a client's own receive filter alike, and
// a rule lets a frame pass on Yes alone.
//
// Yes and No are libpcap's answers on an untagged frame, with two differences,
// both because every judge of a frame reads the same parse of it:
//
//   - IPv6 extension headers are walked. "ip6 proto N" holds when N is the
//     upper-layer protocol or the number of a header in the chain, and ports are
//     found behind the chain; libpcap looks at the first header only.
//   - tcp[...], udp[...], sctp[...] and pim[...] read IPv4 and IPv6, under the same
//     condition as the words tcp, udp, sctp and pim; libpcap reads IPv4 only.
//
// A byte beyond the end of the IP datagram is not there for ip[...] and what is
// above it; ether[...] and len see the whole frame, padding included.
//
// # Bounds
//
// MaxLength, MaxDepth, MaxTerms and MaxRegisters bound what Parse accepts, so
// that judging a frame has a bounded cost: each term is looked at twice at most.
package filter
