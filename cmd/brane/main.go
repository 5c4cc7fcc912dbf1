// Command brane gives programs, containers and virtual machines networks of
// their own. The daemon, the broker, the worker and the first stage of a brane
// are modes of the same binary.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"brane/internal/brane"
	"brane/internal/broker"
	"brane/internal/fault"
	"brane/internal/worker"
)

// release is set by the linker.
var release = "devel"

func main() {
	// The modes that are no commands for people come first: they start often, or
	// in a place where little is allowed.
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case brane.InitMode:
			brane.Init()
		case brokerMode:
			os.Exit(brokerMain())
		case worker.Mode:
			os.Exit(worker.Main())
		}
	}
	os.Exit(run())
}

// brokerMode is the first argument of the binary for the broker process.
const brokerMode = "broker-process"

func brokerMain() int {
	if err := broker.Serve(broker.SocketFD); err != nil {
		fmt.Fprintln(os.Stderr, "brane broker:", err)
		return fault.ExitCode(err)
	}
	return 0
}

// exitStatus ends the program with the status of a program that it ran.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	a := &app{out: os.Stdout, err: os.Stderr, stop: stop}
	err := a.root().ExecuteContext(ctx)
	if s, ok := err.(exitStatus); ok {
		return int(s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "brane:", err)
	}
	return fault.ExitCode(err)
}
