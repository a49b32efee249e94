package main

import (
	"fmt"
	"strings"

	"github.com/strake-build/strake/builder"
)

// verification says whether a build verifies the cache: $STRAKE_CACHE.
type verification string

// The values of STRAKE_CACHE.
const (
	verifyNot    verification = ""
	verifyWarn   verification = "verify"        // what differs is told
	verifyStrict verification = "verify=strict" // and is an error
)

func (e *environment) verification() (verification, error) {
	switch v := verification(e.getenv("STRAKE_CACHE")); v {
	case verifyNot, verifyWarn, verifyStrict:
		return v, nil
	default:
		return "", usagef("invalid STRAKE_CACHE=%s: it is verify or verify=strict", v)
	}
}

// verified is an error if a step did not make what the cache has, and that is to be one.
func (j *job) verified(results []*builder.Result) error {
	var differing []string
	for _, r := range results {
		differing = append(differing, r.Differing...)
	}
	if j.opts.verify != verifyStrict || len(differing) == 0 {
		return nil
	}
	return &codeError{codeFailed, fmt.Errorf("%s did not make what the cache has: %s", count(len(differing), "step"), strings.Join(differing, "; "))}
}
