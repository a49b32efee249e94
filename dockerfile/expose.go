package dockerfile

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
)

func (e *expander) expose(c *instructions.ExposeCommand) error {
	ports := []string{}
	for _, p := range c.Ports {
		words, err := e.lex().ProcessWords(p, e.vars)
		if err = cmp.Or(err, e.vars.err()); err != nil {
			return err
		}
		for _, word := range words {
			list, err := e.parsePort(c, word)
			if err = cmp.Or(err, e.vars.spend(len(list)*len("65535/sctp "))); err != nil {
				return err
			}
			ports = append(ports, list...)
		}
	}
	exposed := &e.state.Config.Config.ExposedPorts
	if *exposed == nil {
		*exposed = make(map[string]struct{}, len(ports))
	}
	for _, p := range ports {
		(*exposed)[p] = struct{}{}
	}
	e.metadata(fmt.Sprintf("EXPOSE %v", ports))
	return nil
}

// parsePort reads [[IP:]HOST:]PORT[-PORT][/PROTOCOL] and gives PORT/PROTOCOL for each port. What stands before the port is
// checked, warned of, and means nothing.
func (e *expander) parsePort(c instructions.Command, raw string) ([]string, error) {
	parts := strings.Split(raw, ":")
	port, host, ip := parts[len(parts)-1], "", ""
	if len(parts) > 1 {
		host = parts[len(parts)-2]
		ip = strings.Join(parts[:len(parts)-2], ":")
	}
	port, proto, _ := strings.Cut(port, "/")
	if port == "" {
		return nil, fmt.Errorf("invalid port: %q: no port specified", raw)
	}
	switch strings.ToLower(proto) {
	case "":
		proto = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return nil, fmt.Errorf("invalid port: %q: invalid proto: %s", raw, proto)
	}
	if proto != strings.ToLower(proto) {
		e.lint.Run(&linter.RuleExposeProtoCasing, c.Location(), linter.RuleExposeProtoCasing.Format(raw))
	}
	if ip != "" || host != "" {
		e.lint.Run(&linter.RuleExposeInvalidFormat, c.Location(), linter.RuleExposeInvalidFormat.Format(raw))
	}
	if err := checkIP(ip); err != nil {
		return nil, err
	}
	start, end, err := portRange(port)
	if err != nil {
		return nil, errors.New("invalid containerPort: " + port)
	}
	if host != "" {
		hostStart, hostEnd, err := portRange(host)
		if err != nil {
			return nil, errors.New("invalid hostPort: " + host)
		}
		// A range of host ports for one port is a choice.
		if end != start && end-start != hostEnd-hostStart {
			return nil, fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", port, host)
		}
	}
	ports := make([]string, 0, end-start+1)
	for n := start; n <= end; n++ {
		ports = append(ports, strconv.Itoa(n)+"/"+strings.ToLower(proto))
	}
	return ports, nil
}

func checkIP(ip string) error {
	if ip == "" {
		return nil
	}
	if ip[0] == '[' {
		inner, _, err := net.SplitHostPort(ip + ":")
		if err != nil {
			return fmt.Errorf("invalid IP address %v: %w", ip, err)
		}
		ip = inner
	}
	if ip != "" && net.ParseIP(ip) == nil {
		return errors.New("invalid IP address: " + ip)
	}
	return nil
}

// portRange reads N or N-M.
func portRange(s string) (start, end int, err error) {
	first, last, ok := strings.Cut(s, "-")
	if start, err = portNumber(first); err != nil {
		return 0, 0, err
	}
	if !ok || first == last {
		return start, start, nil
	}
	if end, err = portNumber(last); err != nil {
		return 0, 0, err
	}
	if end < start {
		return 0, 0, fmt.Errorf("invalid port range: %s", s)
	}
	return start, end, nil
}

func portNumber(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, err
	}
	if n < 0 || n > 65535 {
		return 0, errors.New("value out of range (0–65535)")
	}
	return n, nil
}
