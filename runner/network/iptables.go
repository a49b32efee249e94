package network

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
)

// The chain of iptables that Docker, for one, has drop what it does not know. A rule of a table of our own cannot accept what that
// drops, and only iptables itself may add to it.
const forwardChain = "FORWARD"

// iptables runs the program.
func iptables(args ...string) (string, error) {
	path, err := exec.LookPath("iptables")
	if err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	cmd := exec.Command(path, append([]string{"-w", "5"}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}

// forwardDropped says whether iptables drops what is forwarded. Where the program is not, nobody has told it to.
func forwardDropped() bool {
	out, err := iptables("-S", forwardChain)
	return err == nil && strings.HasPrefix(out, "-P "+forwardChain+" DROP")
}

// allowForward has iptables let the bridge's packets through.
func allowForward() error {
	for _, side := range []string{"-i", "-o"} {
		if _, err := iptables("-I", forwardChain, side, bridge, "-j", "ACCEPT"); err != nil {
			return fmt.Errorf("letting boxes through the firewall: %w", err)
		}
	}
	return nil
}

// denyForward takes allowForward back. A rule that is gone already is no error.
func denyForward() {
	for _, side := range []string{"-i", "-o"} {
		_, _ = iptables("-D", forwardChain, side, bridge, "-j", "ACCEPT")
	}
}
