package userspace

import (
	"log/slog"
	"testing"

	"brane/internal/datapath"
	"brane/internal/datapath/datapathtest"
	"brane/internal/linux/linuxtest"
)

func open(ev datapath.Events) datapath.Datapath { return New(ev, slog.New(slog.DiscardHandler)) }

func TestConformance(t *testing.T) {
	datapathtest.Run(t, open, datapathtest.Kinds()...)
}

func TestInterfaces(t *testing.T) {
	linuxtest.NeedRoot(t)
	datapathtest.Run(t, open, datapathtest.InterfaceKinds()...)
}
