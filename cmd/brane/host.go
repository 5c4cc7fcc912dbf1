package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"brane/internal/linux/netlink"
	"brane/internal/network"
)

// hostFacts are the host as plans see it.
func (d *daemon) hostFacts() network.Host {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.host
}

// hostSubnets are the subnets that the host is in itself, those of last time
// when they cannot be read.
func (d *daemon) hostSubnets() []netip.Prefix {
	h, err := netlink.Open()
	var list []netip.Prefix
	if err == nil {
		defer h.Close()
		list, err = h.HostPrefixes()
	}
	if err != nil {
		d.log.Error("host's subnets unknown", "err", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.near = list
	}
	return d.near
}

// refreshHost reads the host's addresses and resolvers again; true when they
// changed. What is known stays when they cannot be read: a plan without the
// host's addresses would let branes reach them.
func (d *daemon) refreshHost() (bool, error) {
	h := network.Host{Resolvers: resolvers("/etc/resolv.conf")}
	n, err := netlink.Open()
	if err == nil {
		var addrs []netlink.Addr
		addrs, err = n.Addrs("")
		for _, a := range addrs {
			h.Addrs = append(h.Addrs, a.Prefix.Addr())
		}
		n.Close()
	}
	if err != nil {
		return false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	same := fmt.Sprint(d.host) == fmt.Sprint(h)
	d.host = h
	return !same, nil
}

// watchHost follows the host's addresses: plans name them, and a network that
// overlaps one of the host's subnets from now on takes no new ports.
func (d *daemon) watchHost(ctx context.Context) error {
	w, err := netlink.Watch()
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = w.Close() })
	again := time.NewTimer(0) // what changed before the watch began is read too
	defer again.Stop()
	for {
		select {
		case _, ok := <-w.Changes():
			if !ok {
				return nil
			}
		case <-again.C:
		}
		changed, err := d.refreshHost()
		if err != nil {
			d.log.Error("host's addresses unknown", "err", err)
			again.Reset(time.Second)
			continue
		}
		if changed {
			d.ctl.Kick()
		}
		st, err := d.svc.State()
		if err != nil {
			return err
		}
		subnets := d.hostSubnets()
		for name, r := range st.Networks {
			trouble := ""
			if err := r.Definition.Overlaps(subnets); err != nil && r.Started {
				trouble = err.Error()
			}
			if trouble == r.Trouble {
				continue
			}
			if _, err := d.svc.SetTrouble(name, trouble); err != nil {
				return err
			}
			d.log.Warn("network overlaps the host", "network", name, "trouble", trouble)
			d.events.Tell("network", name, "trouble", trouble)
		}
	}
}

// resolvers reads the name servers of a resolv.conf(5).
func resolvers(path string) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		w := strings.Fields(line)
		if len(w) < 2 || w[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(w[1]); err == nil && len(out) < 3 {
			out = append(out, netip.AddrPortFrom(addr, 53).String())
		}
	}
	return out
}
