// Command switchbench joins two network namespaces with the userspace switch
// and nothing else around it: a TAP "t0" in each, the rule clean on both ports.
// test/bench/switch.sh measures it against its peers.
//
//	switchbench NETNS-A NETNS-B MAC-A MAC-B PREFIX-A PREFIX-B
package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime/pprof"

	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/datapath/userspace"
	"brane/internal/linux/netlink"
	"brane/internal/linux/tap"
	"brane/internal/plan"
)

func main() {
	if len(os.Args) != 7 {
		fmt.Fprintln(os.Stderr, "usage: switchbench NETNS-A NETNS-B MAC-A MAC-B PREFIX-A PREFIX-B")
		os.Exit(64)
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(70)
	}
}

func run(args []string) error {
	m := &plan.Mux{Name: "bench", MTU: 1500}
	for i := range 2 {
		mac, err := frame.ParseMAC(args[2+i])
		if err != nil {
			return err
		}
		addr, err := netip.ParsePrefix(args[4+i])
		if err != nil {
			return err
		}
		own := []netip.Prefix{netip.PrefixFrom(addr.Addr(), addr.Addr().BitLen())}
		m.Ports = append(m.Ports, plan.Port{
			ID: plan.PortID(i + 1), Device: "bench/" + string(rune('a'+i)), Role: plan.Interface, MAC: mac, MTU: 1500,
			Send:    []plan.Filter{{Owner: "bench", Rule: "clean", Bound: own}},
			Receive: []plan.Filter{{Owner: "bench", Rule: "clean"}},
		})
	}
	s := userspace.New(datapath.Events{}, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	defer s.Close()
	if err := s.Apply(m); err != nil {
		return err
	}
	for i := range 2 {
		if err := attach(s, args[i], plan.PortID(i+1)); err != nil {
			return err
		}
	}
	if name := os.Getenv("CPUPROFILE"); name != "" {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	<-stop
	for _, c := range s.Counters("bench") {
		fmt.Fprintln(os.Stderr, c)
	}
	return nil
}

func attach(s *userspace.Switch, namespace string, id plan.PortID) error {
	ns, err := os.Open("/run/netns/" + namespace)
	if err != nil {
		return err
	}
	defer ns.Close()
	var d *tap.Device
	err = netlink.In(int(ns.Fd()), func() (err error) {
		d, err = tap.Create("t0")
		return err
	})
	if err != nil {
		return err
	}
	return s.Attach("bench", id, datapath.Endpoint{Kind: datapath.TAP, FD: d.FD})
}
