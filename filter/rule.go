package filter

import (
	"net/netip"

	"brane/frame"
	"brane/internal/fault"
	"brane/internal/verdict"
)

// Rule judges frames in one direction of a port. It is immutable, may be used
// by many goroutines at once, keeps nothing of the packet and does not allocate.
type Rule interface {
	// Judge gives Delivered when the frame may pass, else the reason why not.
	Judge(p *frame.Packet) verdict.Reason
}

// Way is the direction of the frames that a rule judges.
type Way uint8

// The ways.
const (
	Send    Way = iota // from the port's client
	Receive            // to the port's client
)

// Names of the named rules.
const (
	Clean = "clean"
	Guard = "guard"
)

// Params say what a rule is built from.
type Params struct {
	Rule string    // Clean, Guard (Send only), or an expression
	MAC  frame.MAC // of the port
	// Bound are for Clean the addresses that the port may use, for Guard those of
	// the host. A prefix has no bits beyond its length.
	Bound   []netip.Prefix
	Ports   []uint16     // for Guard: TCP and UDP ports of the host that are open
	Replies []uint16     // for Guard: UDP ports from which the client may answer the gateway
	Router  frame.MAC    // of the port that routes; zero when there is none
	Routers []netip.Addr // for Guard: the gateway's own addresses
}

// Build makes the rule that p describes. An error is a *fault.Error of kind
// Invalid, or one of Parse.
func Build(way Way, p Params) (Rule, error) {
	for _, b := range p.Bound {
		if !b.IsValid() || b.Masked() != b || b.Addr().Is4In6() {
			return nil, fault.New(fault.Invalid, "build rule", p.Rule, "%v is not a prefix of addresses", b).
				WithRemedy("clear the bits beyond its length")
		}
	}
	switch {
	case p.Rule == Clean && way == Send:
		return NewCleanSend(p.MAC, p.Bound), nil
	case p.Rule == Clean:
		return NewCleanReceive(p.MAC, p.Router), nil
	case p.Rule == Guard && way == Send:
		return NewGuard(p), nil
	case p.Rule == Guard:
		return nil, fault.New(fault.Invalid, "build rule", p.Rule, "it judges what a port sends, not what it receives")
	}
	e, err := Parse(p.Rule)
	if err != nil {
		return nil, err
	}
	return NewExpr(Compile(e), way), nil
}

// exprRule lets pass what its program says Yes to.
type exprRule struct {
	program *Program
	no      verdict.Reason
}

// NewExpr makes a rule of a compiled expression.
func NewExpr(program *Program, way Way) Rule {
	if way == Send {
		return &exprRule{program, verdict.SendFilter}
	}
	return &exprRule{program, verdict.ReceiveFilter}
}

func (r *exprRule) Judge(p *frame.Packet) verdict.Reason {
	switch r.program.Match(p) {
	case Yes:
		return verdict.Delivered
	case No:
		return r.no
	}
	return verdict.Undecidable
}
