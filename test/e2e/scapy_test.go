package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"brane/client"
	"brane/frame"
)

// forger is the attacker's program: scapy, as root inside its brane.
const forger = `import sys
from scapy.all import *
conf.verb=0
amac,a4,a6,vmac,v4,v6,s4,s6,gmac=sys.argv[1:10]
gll=in6_ptop("fe80::1"); all6="33:33:00:00:00:01"
E=lambda src=amac,dst=vmac: Ether(src=src,dst=dst)
w=Raw(b"HOSTILE")
p=[]
for ip in ["10.20.0.1",s4,v4]:
    for op in (1,2):
        p+=[E()/ARP(op=op,hwsrc=amac,psrc=ip,hwdst=vmac,pdst=v4), E(dst="ff:ff:ff:ff:ff:ff")/ARP(op=op,hwsrc=amac,psrc=ip,pdst=ip)]
for t in ["fd00:20::1",s6,v6]:
    for src in (a6,t):
        p+=[E()/IPv6(src=src,dst=v6)/ICMPv6ND_NA(R=1,S=1,O=1,tgt=t)/ICMPv6NDOptDstLLAddr(lladdr=amac), E(dst=all6)/IPv6(src=src,dst="ff02::1")/ICMPv6ND_NA(R=0,S=0,O=1,tgt=t)/ICMPv6NDOptDstLLAddr(lladdr=amac)]
p+=[E()/IPv6(src=a6,dst=v6)/ICMPv6ND_NA(S=1,O=1,tgt=a6)/ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:66:66"), E()/IPv6(src=a6,dst=v6,hlim=254)/ICMPv6ND_NA(S=1,O=1,tgt=a6)/ICMPv6NDOptDstLLAddr(lladdr=amac)]
for src in (a6,):
    for hl in (255,64):
        p+=[E(dst=all6)/IPv6(src=src,dst="ff02::1",hlim=hl)/ICMPv6ND_RA(routerlifetime=1800)/ICMPv6NDOptPrefixInfo(prefix="fd66::",prefixlen=64)/ICMPv6NDOptSrcLLAddr(lladdr=amac),
            E()/IPv6(src=src,dst=v6,hlim=hl)/ICMPv6ND_Redirect(tgt=a6,dst="2001:db8:51::1")/ICMPv6NDOptDstLLAddr(lladdr=amac)]
p+=[E()/IP(src=s,dst=v4)/ICMP(type=5,code=1,gw=a4)/IP(src=v4,dst="198.51.100.1")/UDP(dport=9) for s in (a4,"10.20.0.1")]
p+=[E()/IP(src=a4,dst=v4)/UDP(sport=67,dport=68)/BOOTP(op=2,yiaddr="10.66.0.9",siaddr=a4,chaddr=bytes.fromhex(vmac.replace(":","")))/DHCP(options=[("message-type","ack"),("server_id",a4),("router",a4),"end"]),
    E()/IPv6(src=a6,dst=v6)/UDP(sport=547,dport=546)/DHCP6_Advertise()]
p+=[E(src=gmac)/IPv6(src=a6,dst=v6)/ICMPv6EchoRequest(data=b"HOSTILE"), E(src=gmac)/IP(src="10.20.0.1",dst=v4)/UDP(dport=9)/w]
p+=[E()/Dot1Q(vlan=v)/IP(src=a4,dst=v4)/UDP(dport=9)/w for v in (0,1,4095)]
p+=[E()/Dot1AD(vlan=1)/Dot1Q(vlan=2)/IPv6(src=a6,dst=v6)/UDP(dport=9)/w, Dot3(src=amac,dst=vmac)/LLC()/SNAP(code=0x800)/IP(src=a4,dst=v4)/UDP(dport=9)/w,
    Dot3(src=amac,dst="01:80:c2:00:00:00")/LLC()/STP()]
for i in range(150):
    p+=[E(src=RandMAC()._fix())/IP(src=a4,dst=v4)/UDP(dport=9)/w, E()/IP(src=RandIP()._fix(),dst=v4)/UDP(dport=9)/w, E()/IPv6(src=RandIP6()._fix(),dst=v6)/UDP(dport=9)/w]
s=conf.L2socket(iface="eth0")
for x in p: s.send(x)
for i in range(50): s.send(E()/IP(src=a4,dst=v4)/UDP(sport=7,dport=9)/Raw(b"honest"))
print(len(p))
`

// sniffer writes what comes to eth0 to a pcap file. tcpdump does that too, but
// only where it may change its groups, which no ordinary user's namespace allows.
const sniffer = `import socket,struct,sys
s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,socket.htons(3))
s.bind(("eth0",3))
s.setsockopt(socket.SOL_SOCKET,socket.SO_RCVBUF,8<<20)
f=open("capture.pcap","wb",0)
f.write(struct.pack("<IHHiIII",0xa1b2c3d4,2,4,0,0,65535,1))
while True:
    b,a=s.recvfrom(65535)
    if a[2]!=4: f.write(struct.pack("<IIII",0,0,len(b),len(b))+b)
`

// capture begins to write what comes to the brane to a file.
func (s *shell) capture() {
	s.w.t.Helper()
	s.ask("/usr/bin/python3 " + s.w.file("sniffer.py", sniffer) + " </dev/null &")
	s.w.until("sniffer", func() bool { _, err := os.Stat(s.w.dir + "/home/capture.pcap"); return err == nil })
}

// captured is what of it matches the expression, one line a frame, as tcpdump prints it.
func (s *shell) captured(expr string) []string {
	s.w.t.Helper()
	c := exec.Command("tcpdump", "-Z", "root", "-r", s.w.dir+"/home/capture.pcap", "-e", "-n", expr)
	out, err := c.Output()
	if err != nil {
		s.w.t.Fatalf("tcpdump %s: %v", expr, err)
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' })
}

// TestScapy: a program that appears as root in its brane forges frames with a
// packet socket; the victim's own capture and its kernel's tables decide.
func TestScapy(t *testing.T) {
	as(t, func(w *world) {
		w.ok("up", w.file("office.xml", officeXML))
		spectator := w.open(client.OpenRequest{Device: "office/s"})
		victim, attacker := w.shell("victim"), w.shell("attacker")
		v, a := victim.station("victim"), attacker.station("attacker")
		victim.ask("ping -c1 -W2 10.20.0.1; ping -c1 -W2 fd00:20::1; ping -c1 -W2 " + a.addr4.String())
		const tables = "ip -4 neigh show 10.20.0.1 | cut -d' ' -f1-5; ip -6 neigh show fd00:20::1 | cut -d' ' -f1-5; " +
			"ip -4 route; ip -6 route | sed 's/expires.*//; s/pref.*//' | sort; ip -o addr show dev eth0 | sed 's/valid_lft.*//'"
		before := victim.ask(tables)
		if !strings.Contains(before, frame.DeriveMAC("office", "gateway").String()) {
			w.t.Fatalf("the gateway is not among the victim's neighbours:\n%s", before)
		}
		victim.capture()
		script := w.file("forger.py", forger)
		out := attacker.ask(strings.Join([]string{
			"/usr/bin/python3", script, a.mac.String(), a.addr4.String(), a.addr6.String(), v.mac.String(),
			v.addr4.String(), v.addr6.String(), spectator.addr4().String(), spectator.addr6().String(), frame.DeriveMAC("office", "gateway").String(),
		}, " "))
		var hostile uint64
		if _, err := fmt.Sscan(lastLine(out), &hostile); err != nil || hostile < 450 {
			w.t.Fatalf("the forger: %s", out)
		}
		w.until("all honest frames", func() bool { return len(victim.captured("udp src port 7")) == 50 })
		for _, line := range victim.captured("not ether src " + frame.DeriveMAC("office", "gateway").String() + " and not udp src port 7 and not (ether src " + a.mac.String() + " and (src host " + a.addr4.String() + " and icmp))") {
			if !honestLine(line, a) {
				w.t.Errorf("arrived at the victim: %s", line)
			}
		}
		if b, err := os.ReadFile(w.dir + "/home/capture.pcap"); err != nil || bytes.Contains(b, []byte(mark)) {
			w.t.Errorf("a marked frame arrived at the victim (%v)", err)
		}
		if after := victim.ask(tables); after != before {
			w.t.Errorf("the victim's tables changed; before:\n%safter:\n%s", before, after)
		}
		if got := victim.ask("ping -c1 -W2 " + outsideAddr); !strings.Contains(got, "1 received") {
			w.t.Errorf("the victim does not reach the outside any more: %s", got)
		}
		var b client.Brane
		if err := json.Unmarshal([]byte(w.ok("show", "attacker", "-o", "json")), &b); err != nil || len(b.Ports) != 1 {
			w.t.Fatalf("show: %v %+v", err, b)
		}
		from := b.Ports[0].From
		if refused := sum(from) - from["delivered"]; refused < hostile || from["delivered"] < 50 || from["internal"] != 0 {
			w.t.Errorf("%d hostile frames sent, counted %v", hostile, from)
		}
		why := w.reasons("office/attacker")
		for _, r := range []string{"source-mac", "source-ip", "arp", "nd", "router-advert", "dhcp-server", "vlan", "llc"} {
			if from[r] == 0 || why[r] == 0 {
				w.t.Errorf("%s: counted %d, named by why %d times", r, from[r], why[r])
			}
		}
	})
}

// honestLine says that a frame in the capture is the attacker's kernel's own:
// it asks for the victim's address, or answers.
func honestLine(line string, a station) bool {
	own := strings.Contains(line, a.mac.String()+" >")
	arp := strings.Contains(line, "tell "+a.addr4.String()) || strings.Contains(line, "Reply "+a.addr4.String()+" is-at "+a.mac.String())
	mld := strings.Contains(line, "multicast listener report") || strings.Contains(line, "HBH ICMP6")
	nd := strings.Contains(line, "neighbor solicitation") || strings.Contains(line, "router solicitation") ||
		strings.Contains(line, "neighbor advertisement, tgt is "+a.addr6.String()+",") && !strings.Contains(line, "66:66")
	return own && (arp || mld || nd)
}

// addrPort is an address with a port.
func addrPort(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// TestRogueDHCP: a port that answers each question for an address faster than
// the gateway, and floods answers besides; the client gets the right lease from the right server.
func TestRogueDHCP(t *testing.T) {
	as(t, func(w *world) {
		w.ok("up", w.file("office.xml", officeXML))
		a := w.open(client.OpenRequest{Device: "office/a"})
		script := w.file("dhcp.sh", "#!/bin/sh\n[ \"$1\" = bound ] && { ip addr flush dev $interface; ip addr add $ip/$mask dev $interface; ip route replace default via $router; echo got $ip $router $dns from $serverid; }\nexit 0\n")
		w.must("chmod", "755", script)
		victim := w.shell("fixed", "--no-address")
		victim.capture()
		mac := frame.DeriveMAC("office", "fixed")
		rogue := a.addr4()
		var asked int
		stop, done := make(chan struct{}), make(chan struct{})
		go func() { // the rogue server
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
				}
				q := a.next(50*time.Millisecond, func(q *frame.Packet) bool { _, dport, _ := q.Ports(); return dport == 67 })
				xid := uint32(1)
				if q != nil {
					var p frame.Packet
					p.Parse(q)
					if b := p.Payload(); len(b) > 8 {
						xid, asked = uint32(b[4])<<24|uint32(b[5])<<16|uint32(b[6])<<8|uint32(b[7]), asked+1
					}
				}
				for _, kind := range []byte{2, 5} {
					b := bootp(kind, xid, mac, rogue.Next(), rogue)
					if _, err := syscall.Write(a.fd, frame.AppendUDP(nil, a.mac(), frame.Broadcast(), addrPort(rogue, 67), addrPort(linkAll4, 68), b)); err != nil {
						return
					}
				}
			}
		}()
		for range sample(3, 100) {
			got := victim.ask("udhcpc -i eth0 -n -q -f -s " + script)
			if !strings.Contains(got, "got 10.20.0.7 10.20.0.1 10.20.0.1 from 10.20.0.1") {
				w.t.Errorf("udhcpc: %s", got)
			}
		}
		close(stop)
		<-done
		if got := victim.ask("ping -c1 -W2 10.20.0.1"); !strings.Contains(got, "1 received") {
			w.t.Errorf("the gateway does not answer: %s", got)
		}
		if lines := victim.captured("(udp or icmp or icmp6) and not ether src " + frame.DeriveMAC("office", "gateway").String()); len(lines) > 0 {
			w.t.Errorf("from the rogue server arrived: %s", lines[0])
		}
		w.until("answer of the right server in the capture", func() bool { return len(victim.captured("src port 67")) > 1 })
		if from := w.port(a.reply.Port).From; from["dhcp-server"] == 0 {
			w.t.Errorf("counted %v", from)
		}
		w.t.Logf("the rogue server heard %d questions", asked)
	})
}
