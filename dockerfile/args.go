package dockerfile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"
)

// environ is an environment in the order in which its variables were last set. It is a shell.EnvGetter.
type environ struct {
	list  []string // KEY=VALUE; empty where a variable was that has moved on
	index map[string]int
}

// newEnviron reads KEY=VALUE lines; a later one wins.
func newEnviron(list []string) *environ {
	e := &environ{index: make(map[string]int, len(list)+8)}
	for _, kv := range list {
		if kv != "" {
			k, v, _ := strings.Cut(kv, "=")
			e.set(k, v)
		}
	}
	return e
}

// clone may be called on nil.
func (e *environ) clone() *environ {
	if e == nil {
		return newEnviron(nil)
	}
	if len(e.list) > 2*len(e.index)+8 {
		return newEnviron(e.list)
	}
	return &environ{list: slices.Clone(e.list), index: maps.Clone(e.index)}
}

// set sets a variable, which is the last one then.
func (e *environ) set(k, v string) {
	if i, ok := e.index[k]; ok {
		if i == len(e.list)-1 {
			e.list[i] = k + "=" + v
			return
		}
		e.list[i] = ""
	}
	e.index[k] = len(e.list)
	e.list = append(e.list, k+"="+v)
}

// all are the variables, as KEY=VALUE.
func (e *environ) all() []string {
	all := make([]string, 0, len(e.index))
	for _, kv := range e.list {
		if kv != "" {
			all = append(all, kv)
		}
	}
	return all
}

// without is a copy that lacks one variable.
func (e *environ) without(k string) *environ {
	prefix := k + "="
	return newEnviron(slices.DeleteFunc(e.all(), func(kv string) bool { return strings.HasPrefix(kv, prefix) }))
}

// Get is shell.EnvGetter's.
func (e *environ) Get(k string) (string, bool) {
	i, ok := e.index[k]
	if !ok {
		return "", false
	}
	return e.list[i][len(k)+1:], true
}

// Keys is shell.EnvGetter's.
func (e *environ) Keys() []string {
	keys := e.all()
	for i, kv := range keys {
		keys[i], _, _ = strings.Cut(kv, "=")
	}
	return keys
}

// meter is an environment that gives out so much text and no more: "ENV A=$A$A", said forty times, would fill any memory.
// It is a shell.EnvGetter.
type meter struct {
	*environ
	left  int
	whole *atomic.Int64 // what is left for all stages of a file; nil where there is but one meter
}

// How much text variables and ranges of ports may stand for, in bytes: in one stage, and in all of a file. A process could not be given as much as the first.
const (
	expansionLimit = 16 << 20
	graphLimit     = 4 * expansionLimit
)

// listedVariable is what a variable in a list counts for, in bytes: the text itself is there once for all lists.
const listedVariable = 16

func newMeter(e *environ, whole *atomic.Int64) *meter {
	return &meter{environ: e, left: expansionLimit, whole: whole}
}

// Get is shell.EnvGetter's. Past the limit all variables are empty, and err says so.
func (m *meter) Get(k string) (string, bool) {
	v, ok := m.environ.Get(k)
	if m.spend(len(v)) != nil {
		return "", ok
	}
	return v, ok
}

// spend takes note of n bytes that were given out, and returns err.
func (m *meter) spend(n int) error {
	m.left -= n
	if m.whole != nil {
		m.whole.Add(int64(-n))
	}
	return m.err()
}

func (m *meter) err() error {
	switch {
	case m.left < 0:
		return fmt.Errorf("variables expand to more than %d MiB", expansionLimit>>20)
	case m.whole != nil && m.whole.Load() < 0:
		return fmt.Errorf("the variables of all stages expand to more than %d MiB", graphLimit>>20)
	}
	return nil
}

// platformArgs are the arguments that are there without an ARG before the first FROM.
func platformArgs(s Settings, target string) *environ {
	if target == "" {
		target = "default"
	}
	b, t := s.Build, s.Platform
	e := newEnviron(nil)
	for _, kv := range [][2]string{
		{"BUILDPLATFORM", shortPlatform(b)},
		{"BUILDOS", b.OS},
		{"BUILDOSVERSION", b.OSVersion},
		{"BUILDARCH", b.Architecture},
		{"BUILDVARIANT", b.Variant},
		{"TARGETPLATFORM", longPlatform(t)},
		{"TARGETOS", t.OS},
		{"TARGETOSVERSION", t.OSVersion},
		{"TARGETARCH", t.Architecture},
		{"TARGETVARIANT", t.Variant},
		{"TARGETSTAGE", target},
	} {
		v := kv[1]
		if given, ok := s.BuildArgs[kv[0]]; ok {
			v = given
		}
		e.set(kv[0], v)
	}
	return e
}

// metaArgs adds the arguments before the first FROM to those in e. A default is not looked at when the build gives a value.
func (f *File) metaArgs(e *environ, lex *shell.Lex, given map[string]string) (*environ, error) {
	e = e.clone()
	m := newMeter(e, nil)
	for _, c := range f.meta {
		for _, a := range c.Args {
			if v, ok := given[a.Key]; ok {
				e.set(a.Key, v)
				continue
			}
			if a.Value == nil {
				continue
			}
			v, _, err := lex.ProcessWord(*a.Value, m)
			if err = cmp.Or(err, m.err()); err != nil {
				return nil, f.failIn("", c.String(), toRange(c.Location()), err)
			}
			e.set(a.Key, v)
		}
	}
	return e, nil
}

// metaKeys are the names of all arguments before the first FROM, also those without a value.
func (f *File) metaKeys() []string {
	var keys []string
	for _, c := range f.meta {
		for _, a := range c.Args {
			keys = append(keys, a.Key)
		}
	}
	return keys
}

// buildArg is an ARG that a stage has passed.
type buildArg struct {
	key   string
	value string // empty also when it has none
}

// runPrefix is what the history of a RUN says of the arguments in scope: "|2 a=1 b=2 ". One that is declared
// twice stands once, where it stood first.
func runPrefix(args []buildArg, env *environ) string {
	var words []string
	at := make(map[string]int, len(args))
	for _, a := range args {
		v, ok := env.Get(a.key)
		if !ok {
			v = a.value
		}
		word := a.key + "=" + v
		if i, ok := at[a.key]; ok {
			words[i] = word
			continue
		}
		at[a.key] = len(words)
		words = append(words, word)
	}
	if len(words) == 0 {
		return ""
	}
	return fmt.Sprintf("|%d %s ", len(words), strings.Join(words, " "))
}

// proxyNames are arguments that a RUN gets without an ARG, in both spellings, whatever the spelling of the build argument.
var proxyNames = [...]string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"}

// proxyEnv is the proxy environment that the build arguments give.
func proxyEnv(args map[string]string) []string {
	var env []string
	keys := slices.Sorted(maps.Keys(args))
	for _, name := range proxyNames {
		var value string
		for _, k := range keys {
			if strings.EqualFold(k, name) {
				value = args[k]
			}
		}
		if value != "" {
			env = append(env, name+"="+value, strings.ToLower(name)+"="+value)
		}
	}
	return env
}

// notInEnv are arguments that speak to the builder and never reach a process.
func notInEnv(key string) bool {
	return key == "BUILDKIT_SBOM_SCAN_CONTEXT" || key == "BUILDKIT_SBOM_SCAN_STAGE"
}

// suggestAny adds to err what one of the unknown names could have been meant to be.
func suggestAny(err error, unknown map[string]struct{}, known []string) error {
	for _, k := range slices.Sorted(maps.Keys(unknown)) {
		if ok, better := suggest.WrapErrorMaybe(err, k, known, true); ok {
			return better
		}
	}
	return err
}
