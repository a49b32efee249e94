package runner

import (
	"context"
	"fmt"

	"github.com/strake-build/strake/runner/network"
)

// networkDir is where all strakes of a machine share what they know of the bridge.
const networkDir = "/run/strake"

// connect makes the private network of a box; it is nil if kind is another one.
func (l *Linux) connect(ctx context.Context, kind Network) (*network.Network, error) {
	switch kind {
	case HostNetwork, NoNetwork:
		return nil, nil //nolint:nilnil // there is none to be made
	case BridgeNetwork:
	default:
		return nil, fmt.Errorf("unknown network %q", kind)
	}
	var n *network.Network
	var err error
	switch {
	case l.Isolation.Rung == Root && !l.Isolation.UserNS:
		n, err = network.Bridge(ctx, networkDir)
	case l.Isolation.Rung == Rootless || l.Isolation.UserNS:
		n, err = network.User(ctx)
	default:
		return nil, fmt.Errorf("isolation %s: a box cannot have a network namespace, so there is no private network: use --network host", l.Isolation.Rung)
	}
	if err != nil {
		return nil, fmt.Errorf("making a private network: %w", err)
	}
	return n, nil
}

// sweepNetwork removes the bridge that killed processes have left, if there is one.
func (l *Linux) sweepNetwork() error {
	if l.Isolation.Rung != Root || l.Isolation.UserNS {
		return nil
	}
	if err := network.Sweep(networkDir); err != nil {
		return fmt.Errorf("removing the network of a dead process: %w", err)
	}
	return nil
}
