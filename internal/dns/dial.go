package dns

import (
	"context"
	"errors"
	"net"
	"time"

	wire "github.com/miekg/dns"
)

// Dial is the Exchange of the host's own sockets. A UDP socket is connected,
// so the kernel drops what does not come from the resolver, and a refusal of
// its host ends the wait at once.
func Dial(ctx context.Context, network, server string, query []byte, fits func([]byte) bool) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, server)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if network == "tcp" {
		if err := writeMessage(conn, query); err != nil {
			return err
		}
		b, err := readMessage(conn, wire.MaxMsgSize)
		if err == nil && !fits(b) {
			err = errors.New("a resolver answered another question")
		}
		return err
	}
	if _, err := conn.Write(query); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		if fits(buf[:n]) {
			return nil
		}
	}
}
