package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"brane/client"
)

// completion gives names for the word at the cursor.
type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// complete teaches the shells the names of branes and networks. Without a
// daemon there are none: to press a key starts nothing and prints no error.
func (a *app) complete(root *cobra.Command) {
	branes := a.names(1, cobra.ShellCompDirectiveNoFileComp, braneNames)
	networks := a.names(1, cobra.ShellCompDirectiveNoFileComp, networkNames(""))
	for _, at := range []struct {
		f    completion
		path []string
	}{
		{branes, []string{"show"}},
		{branes, []string{"stop"}},
		{branes, []string{"why"}},
		{networks, []string{"down"}},
		{networks, []string{"net", "show"}},
		{networks, []string{"net", "leases"}},
		{networks, []string{"net", "start"}},
		{networks, []string{"net", "stop"}},
		{networks, []string{"net", "delete"}},
		{networks, []string{"mux", "delete"}},
		{networks, []string{"device", "list"}},
		{a.names(1, cobra.ShellCompDirectiveNoSpace|cobra.ShellCompDirectiveNoFileComp, networkNames("/")), []string{"device", "open"}},
	} {
		if c, rest, err := root.Find(at.path); err == nil && len(rest) == 0 {
			c.ValidArgsFunction = at.f
		}
	}
	forms := cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)
	_ = root.RegisterFlagCompletionFunc("output", forms)
	anywhere := a.names(-1, cobra.ShellCompDirectiveNoFileComp, networkNames(""))
	for flag, path := range map[string][]string{"network": {"run"}, "uplink": {"mux", "create"}} {
		if c, _, err := root.Find(path); err == nil {
			_ = c.RegisterFlagCompletionFunc(flag, anywhere)
		}
	}
}

// names asks the running daemon, for the first most arguments (-1: for all).
func (a *app) names(most int, then cobra.ShellCompDirective, list func(context.Context, *client.Client) ([]string, error)) completion {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveDefault
		}
		ctx, cancel := context.WithTimeout(c.Context(), time.Second)
		defer cancel()
		d := client.New(a.dir())
		defer d.Close()
		found, err := list(ctx, d)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return found, then
	}
}

func braneNames(ctx context.Context, d *client.Client) (out []string, err error) {
	list, err := d.Branes(ctx)
	for _, b := range list {
		out = append(out, cobra.CompletionWithDesc(b.Name, "on "+b.Network))
	}
	return out, err
}

func networkNames(suffix string) func(context.Context, *client.Client) ([]string, error) {
	return func(ctx context.Context, d *client.Client) (out []string, err error) {
		list, err := d.Networks(ctx)
		for _, n := range list {
			out = append(out, cobra.CompletionWithDesc(n.Name+suffix, stateOf(n)))
		}
		return out, err
	}
}
