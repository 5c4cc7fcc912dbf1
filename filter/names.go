package filter

// Header names a header that the language knows by a word. The list is
// closed; headers describes each.
type Header uint8

// header is what a word says about the frame.
type header struct {
	word      string
	layer     Layer  // where it is announced
	number    uint16 // as what
	transport Transport
	over      Over
}

// The headers that the parser treats apart.
const (
	hEther Header = iota
	hIP
	hIP6
	hARP
	hRARP
	hTCP
	hUDP
	hSCTP
	hICMP
	hICMP6
)

// headers lists the words of headers in the order of their constants.
func headers() []header { return headerTable[:] }

var headerTable = [...]header{
	hEther: {word: "ether"},
	hIP:    {word: "ip", layer: Ether, number: 0x0800, over: OverIP},
	hIP6:   {word: "ip6", layer: Ether, number: 0x86dd, over: OverIP6},
	hARP:   {word: "arp", layer: Ether, number: 0x0806, over: OverARP},
	hRARP:  {word: "rarp", layer: Ether, number: 0x8035, over: OverRARP},
	hTCP:   {word: "tcp", layer: Inet, number: 6, transport: TCP},
	hUDP:   {word: "udp", layer: Inet, number: 17, transport: UDP},
	hSCTP:  {word: "sctp", layer: Inet, number: 132, transport: SCTP},
	hICMP:  {word: "icmp", layer: IPv4, number: 1},
	hICMP6: {word: "icmp6", layer: IPv6, number: 58},
	{word: "igmp", layer: IPv4, number: 2},
	{word: "igrp", layer: IPv4, number: 88},
	{word: "carp", layer: IPv4, number: 112},
	{word: "vrrp", layer: IPv4, number: 112},
	{word: "pim", layer: Inet, number: 103},
	{word: "ah", layer: Inet, number: 51},
	{word: "esp", layer: Inet, number: 50},
	{word: "decnet", layer: Ether, number: 0x6003},
	{word: "lat", layer: Ether, number: 0x6004},
	{word: "sca", layer: Ether, number: 0x6007},
	{word: "mopdl", layer: Ether, number: 0x6001},
	{word: "moprc", layer: Ether, number: 0x6002},
	{word: "stp", layer: Ether, number: 0x42},
	{word: "netbeui", layer: Ether, number: 0xf0},
	{word: "iso", layer: Ether, number: 0xfe},
	{word: "pppoed", layer: Ether, number: 0x8863},
}

// noLoad says for which headers word[...] has no meaning.
func (h header) noLoad() bool {
	return h.layer == Ether && h.number <= maxLength8023 || h.word == "ah" || h.word == "esp" || h.word == "pppoed"
}

// maxLength8023 is the largest number that "ether proto" takes for an 802.2
// DSAP; larger ones are EtherTypes.
const maxLength8023 = 1500

// headerOf finds a header by its word or one of the words that pcap-filter
// takes for "ether".
func headerOf(word string) (Header, bool) {
	switch word {
	case "link", "fddi", "tr", "wlan", "ppp", "slip":
		word = "ether"
	}
	for i := range headerTable {
		if headerTable[i].word == word {
			return Header(i), true
		}
	}
	return 0, false
}

// constant gives the value of a named constant.
func constant(word string) (uint32, bool) {
	for _, c := range constantTable {
		if c.word == word {
			return c.value, true
		}
	}
	return 0, false
}

type named struct {
	word  string
	value uint32
}

var constantTable = [...]named{
	{"icmptype", 0},
	{"icmpcode", 1},
	{"icmp6type", 0},
	{"icmp6code", 1},
	{"tcpflags", 13},
	{"tcp-fin", 0x01},
	{"tcp-syn", 0x02},
	{"tcp-rst", 0x04},
	{"tcp-push", 0x08},
	{"tcp-ack", 0x10},
	{"tcp-urg", 0x20},
	{"tcp-ece", 0x40},
	{"tcp-cwr", 0x80},
	{"icmp-echoreply", 0},
	{"icmp-unreach", 3},
	{"icmp-sourcequench", 4},
	{"icmp-redirect", 5},
	{"icmp-echo", 8},
	{"icmp-routeradvert", 9},
	{"icmp-routersolicit", 10},
	{"icmp-timxceed", 11},
	{"icmp-paramprob", 12},
	{"icmp-tstamp", 13},
	{"icmp-tstampreply", 14},
	{"icmp-ireq", 15},
	{"icmp-ireqreply", 16},
	{"icmp-maskreq", 17},
	{"icmp-maskreply", 18},
	{"icmp6-destinationunreach", 1},
	{"icmp6-packettoobig", 2},
	{"icmp6-timeexceeded", 3},
	{"icmp6-parameterproblem", 4},
	{"icmp6-echo", 128},
	{"icmp6-echoreply", 129},
	{"icmp6-multicastlistenerquery", 130},
	{"icmp6-multicastlistenerreportv1", 131},
	{"icmp6-multicastlistenerdone", 132},
	{"icmp6-routersolicit", 133},
	{"icmp6-routeradvert", 134},
	{"icmp6-neighborsolicit", 135},
	{"icmp6-neighboradvert", 136},
	{"icmp6-redirect", 137},
	{"icmp6-routerrenum", 138},
	{"icmp6-nodeinformationquery", 139},
	{"icmp6-nodeinformationresponse", 140},
	{"icmp6-ineighbordiscoverysolicit", 141},
	{"icmp6-ineighbordiscoveryadvert", 142},
	{"icmp6-multicastlistenerreportv2", 143},
	{"icmp6-homeagentdiscoveryrequest", 144},
	{"icmp6-homeagentdiscoveryreply", 145},
	{"icmp6-mobileprefixsolicit", 146},
	{"icmp6-mobileprefixadvert", 147},
	{"icmp6-certpathsolicit", 148},
	{"icmp6-certpathadvert", 149},
	{"icmp6-multicastrouteradvert", 151},
	{"icmp6-multicastroutersolicit", 152},
	{"icmp6-multicastrouterterm", 153},
}

// The protocols that "proto" takes by name besides the words of headers
// (IANA protocol numbers; IEEE EtherTypes).
var inetProtoTable = [...]named{
	{"ipv4", 4},
	{"ipip", 4},
	{"egp", 8},
	{"ipv6", 41},
	{"ipv6-route", 43},
	{"ipv6-frag", 44},
	{"rsvp", 46},
	{"gre", 47},
	{"ipv6-icmp", 58},
	{"ipv6-nonxt", 59},
	{"ipv6-opts", 60},
	{"eigrp", 88},
	{"ospf", 89},
	{"ipcomp", 108},
	{"l2tp", 115},
	{"dccp", 33},
	{"mobility-header", 135},
	{"udplite", 136},
	{"hopopt", 0},
}

var etherProtoTable = [...]named{{"loopback", 0x9000}, {"slow", 0x8809}}

// protoNumber finds the number of a protocol named in "proto" over a layer.
func protoNumber(layer Layer, word string) (uint32, bool) {
	for _, h := range headerTable[1:] {
		if h.word == word && (h.layer == Ether) == (layer == Ether) && h.number != 0x8863 {
			return uint32(h.number), true
		}
	}
	table := inetProtoTable[:]
	if layer == Ether {
		table = etherProtoTable[:]
	}
	for _, n := range table {
		if n.word == word {
			return n.value, true
		}
	}
	return 0, false
}

// service is a name that port takes, over the transports that it is
// registered for (IANA service names; Debian's /etc/services).
type service struct {
	word string
	port uint16
	over Transport
}

func serviceOf(word string) (service, bool) {
	for _, s := range serviceTable {
		if s.word == word {
			return s, true
		}
	}
	return service{}, false
}

var serviceTable = [...]service{
	{"echo", 7, TCP | UDP},
	{"discard", 9, TCP | UDP},
	{"daytime", 13, TCP | UDP},
	{"chargen", 19, TCP | UDP},
	{"ftp-data", 20, TCP},
	{"ftp", 21, TCP},
	{"ssh", 22, TCP},
	{"telnet", 23, TCP},
	{"smtp", 25, TCP},
	{"time", 37, TCP | UDP},
	{"whois", 43, TCP},
	{"tacacs", 49, TCP | UDP},
	{"domain", 53, TCP | UDP},
	{"bootps", 67, UDP},
	{"bootpc", 68, UDP},
	{"tftp", 69, UDP},
	{"gopher", 70, TCP},
	{"finger", 79, TCP},
	{"http", 80, TCP},
	{"kerberos", 88, TCP | UDP},
	{"pop3", 110, TCP},
	{"sunrpc", 111, TCP | UDP},
	{"nntp", 119, TCP},
	{"ntp", 123, UDP},
	{"netbios-ns", 137, UDP},
	{"netbios-dgm", 138, UDP},
	{"netbios-ssn", 139, TCP},
	{"imap2", 143, TCP},
	{"imap", 143, TCP},
	{"snmp", 161, TCP | UDP},
	{"snmp-trap", 162, TCP | UDP},
	{"bgp", 179, TCP},
	{"ldap", 389, TCP | UDP},
	{"https", 443, TCP | UDP},
	{"microsoft-ds", 445, TCP},
	{"isakmp", 500, UDP},
	{"syslog", 514, UDP},
	{"printer", 515, TCP},
	{"rtsp", 554, TCP | UDP},
	{"dhcpv6-client", 546, UDP},
	{"dhcpv6-server", 547, UDP},
	{"submission", 587, TCP},
	{"ipp", 631, TCP},
	{"ldaps", 636, TCP | UDP},
	{"domain-s", 853, TCP | UDP},
	{"rsync", 873, TCP},
	{"imaps", 993, TCP},
	{"pop3s", 995, TCP},
	{"socks", 1080, TCP},
	{"openvpn", 1194, TCP | UDP},
	{"ms-sql-s", 1433, TCP},
	{"l2f", 1701, UDP},
	{"radius", 1812, UDP},
	{"radius-acct", 1813, UDP},
	{"nfs", 2049, TCP | UDP},
	{"mysql", 3306, TCP},
	{"ipsec-nat-t", 4500, UDP},
	{"sip", 5060, TCP | UDP},
	{"sip-tls", 5061, TCP | UDP},
	{"xmpp-client", 5222, TCP},
	{"mdns", 5353, UDP},
	{"postgresql", 5432, TCP},
	{"amqps", 5671, TCP},
	{"amqp", 5672, TCP},
	{"x11", 6000, TCP},
	{"redis", 6379, TCP},
	{"http-alt", 8080, TCP},
}

// later are words of pcap-filter that this compiler refuses by name.
var later = [...]string{
	"aarp", "atalk", "ipx", "vlan", "mpls", "pppoes", "geneve", "vxlan", "llc", "protochain", "gateway", "clnp", "esis",
	"es-is", "isis", "is-is", "l1", "l2", "iih", "lsp", "snp", "csnp", "psnp", "inbound", "outbound",
	"ifindex", "byte", "radio", "type", "subtype", "dir", "direction", "address1", "address2", "address3", "address4", "addr1", "addr2", "addr3", "addr4", "ra", "ta",
	"ifname", "on", "rnr", "rulenum", "reason", "rset", "ruleset", "srnr", "subrulenum", "action",
	"lane", "metac", "bcc", "oam", "oamf4", "oamf4sc", "oamf4ec", "sc", "ilmic", "vpi", "vci", "connectmsg", "metaconnect",
	"fisu", "lssu", "lsu", "msu", "hfisu", "hlssu", "hmsu", "sio", "opc", "dpc", "sls", "hsio", "hopc", "hdpc", "hsls",
}

// keywords are the words of the language that name no header.
var keywords = [...]string{
	"src", "dst", "host", "net", "mask", "port", "portrange", "proto", "less", "greater",
	"broadcast", "multicast", "and", "or", "not", "len", "length",
}

// isWord says whether the language uses word itself, so that it names
// something else only after a backslash.
func isWord(word string) bool {
	for _, k := range keywords {
		if k == word {
			return true
		}
	}
	for _, k := range later {
		if k == word {
			return true
		}
	}
	if _, ok := constant(word); ok {
		return true
	}
	_, ok := headerOf(word)
	return ok
}

// nearest gives the candidate that differs from word in the fewest single
// changes, if they are at most two and fewer than half of the word's bytes.
func nearest(word string, candidates func(yield func(string) bool)) string {
	best, at, limit := "", 1<<10, min(3, (len(word)+1)/2)
	for c := range candidates {
		d := distance(word, c, limit)
		if d == limit {
			continue
		}
		// Of equals, the one that begins alike.
		if d *= 2; c[0] != word[0] {
			d++
		}
		if d < at {
			best, at = c, d
		}
	}
	return best
}

// distance is the number of inserted, removed, changed and swapped bytes
// between a and b, or limit when it is no less.
func distance(a, b string, limit int) int {
	const most = 40
	if len(a) > most || len(b) > most || len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	var rows [3][most + 1]int
	for j := range len(b) + 1 {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		row, prev, before := &rows[i%3], &rows[(i+2)%3], &rows[(i+1)%3]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return min(rows[len(a)%3][len(b)], limit)
}

// words yields every word that may begin a term.
func words(yield func(string) bool) {
	for _, h := range headers() {
		if !yield(h.word) {
			return
		}
	}
	for _, k := range keywords {
		if !yield(k) {
			return
		}
	}
}

// services yields every service name.
func services(yield func(string) bool) {
	for _, s := range serviceTable {
		if !yield(s.word) {
			return
		}
	}
}

// constants yields every named constant.
func constants(yield func(string) bool) {
	for _, c := range constantTable {
		if !yield(c.word) {
			return
		}
	}
}
