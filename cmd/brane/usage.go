package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"brane/internal/fault"
)

// strict makes every mistake on the command line one of our errors, with the
// nearest right word: cobra itself ends with 0 after "brane net lsit".
func strict(root *cobra.Command) {
	root.SetHelpCommand(helpCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	if c, _, err := root.Find([]string{"completion", "powershell"}); err == nil && c.HasParent() {
		c.Parent().RemoveCommand(c) // no shell of this system
	}
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .HasAvailableSubCommands}}\n  {{.CommandPath}} [command]{{end}}", "", 1))
	root.SetFlagErrorFunc(flagError)
	root.InitDefaultHelpFlag()
	each(root, func(c *cobra.Command) {
		if c.HasSubCommands() && !c.Runnable() {
			c.Use += " COMMAND"
			c.DisableFlagsInUseLine = true
			c.Args = cobra.ArbitraryArgs
			c.RunE = func(c *cobra.Command, args []string) error {
				if len(args) == 0 {
					return c.Help()
				}
				return unknown(c, args[0])
			}
			return
		}
		args := c.Args
		c.Args = func(c *cobra.Command, list []string) error {
			switch {
			case args == nil || args(c, list) == nil:
				return nil
			case c.HasSubCommands() && len(list) > 0:
				return unknown(c, list[0])
			}
			return fault.New(fault.Invalid, "read arguments", c.CommandPath(), "%s", misfit(len(list))).WithRemedy("usage: %s", c.UseLine())
		}
	})
}

func misfit(n int) string {
	switch n {
	case 0:
		return "its arguments are missing"
	case 1:
		return "it takes another number of arguments than one"
	}
	return fmt.Sprintf("it takes another number of arguments than %d", n)
}

// each calls f for a command and all below it.
func each(c *cobra.Command, f func(*cobra.Command)) {
	for _, sub := range c.Commands() {
		each(sub, f)
	}
	f(c)
}

// unknown is the error for a word that is no command, with the nearest that is one.
func unknown(c *cobra.Command, word string) error {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() || sub.Name() == "help" {
			names = append(append(names, sub.Name()), sub.Aliases...)
		}
	}
	e := fault.New(fault.Invalid, "read arguments", c.CommandPath(), "there is no command %q", word)
	if near := nearest(word, names); near != "" {
		return e.WithRemedy("did you mean %s %s?", c.CommandPath(), near)
	}
	return e.WithRemedy("%s --help lists the commands", c.CommandPath())
}

func flagError(c *cobra.Command, err error) error {
	e := fault.New(fault.Invalid, "read options", c.CommandPath(), "%v", err).WithRemedy("%s --help lists the options", c.CommandPath())
	var missing *pflag.NotExistError
	if !errors.As(err, &missing) || missing.GetSpecifiedShortnames() != "" {
		return e
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := nearest(missing.GetSpecifiedName(), names); near != "" {
		return e.WithRemedy("did you mean --%s?", near)
	}
	return e
}

// nearest is the name that begins with the word, or differs from it in the
// fewest letters, at most two and fewer than half of it; "" when there is none.
func nearest(word string, names []string) string {
	best, least := "", min(3, (len(word)+1)/2)
	for _, name := range names {
		if len(word) > 1 && strings.HasPrefix(name, word) {
			return name
		}
		if d := distance(word, name); d < least {
			best, least = name, d
		}
	}
	return best
}

// distance is how many letters must be added, taken away, replaced or swapped
// with their neighbour to make one word of another (optimal string alignment).
func distance(a, b string) int {
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND...]", Short: "Say what a command does and takes",
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			at, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, sub := range at.Commands() {
				if sub.IsAvailableCommand() {
					names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			at, rest, err := c.Root().Find(args)
			if err != nil {
				return err
			}
			if rest = slices.Clone(rest); len(rest) > 0 {
				return unknown(at, rest[0])
			}
			at.InitDefaultHelpFlag()
			return at.Help()
		},
	}
}
