package device

import (
	"encoding/csv"
	"fmt"
	"strings"
)

// Rights say which devices steps may ask for: BuildKit's entitlement "device".
type Rights struct {
	All   bool
	Names []string // see Registry.Find
	// Aliases are other names of devices, which may be asked for by these.
	Aliases map[string]string
}

// Add adds what the value of the entitlement allows: "" is all devices, NAME is one, and NAME,alias=OTHER is one by another name.
func (r *Rights) Add(value string) error {
	if value == "" {
		r.All = true
		return nil
	}
	fields, err := csv.NewReader(strings.NewReader(value)).Read()
	if err != nil {
		return fmt.Errorf("invalid device %q: %w", value, err)
	}
	alias := ""
	for _, f := range fields[1:] {
		k, v, ok := strings.Cut(f, "=")
		if !ok || k != "alias" || v == "" {
			return fmt.Errorf("invalid device %q: it is NAME or NAME,alias=OTHER", value)
		}
		alias = v
	}
	switch {
	case fields[0] == "":
		return fmt.Errorf("invalid device %q: it has no name", value)
	case alias == "":
		r.Names = append(r.Names, fields[0])
	default:
		if r.Aliases == nil {
			r.Aliases = map[string]string{}
		}
		r.Aliases[alias] = fields[0]
	}
	return nil
}
