package dockerfile

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// This file has the instructions that only change the image's configuration or the arguments in scope.

func (e *expander) env(c *instructions.EnvCommand) error {
	created := "ENV"
	for _, kv := range c.Env {
		if kv.NoDelim {
			e.lint.Run(&linter.RuleLegacyKeyValueFormat, c.Location(), linter.RuleLegacyKeyValueFormat.Format(c.Name()))
		}
		lintSecretName(e.lint, c, "ENV", kv.Key)
		created += " " + kv.String()
		e.state.env.set(kv.Key, kv.Value)
		e.state.Config.Config.Env = setEnv(e.state.Config.Config.Env, kv.Key, kv.Value)
	}
	e.metadata(created)
	return nil
}

// setEnv replaces a variable where it stands, or adds it.
func setEnv(env []string, k, v string) []string {
	for i, kv := range env {
		if key, _, _ := strings.Cut(kv, "="); key == k {
			env[i] = k + "=" + v
			return env
		}
	}
	return append(env, k+"="+v)
}

func (e *expander) arg(c *instructions.ArgCommand) error {
	created := "ARG"
	for _, a := range c.Args {
		lintSecretName(e.lint, c, "ARG", a.Key)
		value, ok := e.g.settings.BuildArgs[a.Key]
		inherited := false
		switch {
		case ok:
		case a.Value != nil:
			v, err := e.word(c, e.lex(), *a.Value)
			if err != nil {
				return err
			}
			value, ok = v, true
		default:
			value, ok = e.g.args.Get(a.Key)
			inherited = ok
		}
		e.captureArg(c, a, value, inherited)
		created += " " + a.Key
		if ok {
			created += "=" + value
			if !notInEnv(a.Key) {
				e.state.env.set(a.Key, value)
			}
		}
		e.state.args = append(e.state.args, buildArg{key: a.Key, value: value})
	}
	e.metadata(created)
	return nil
}

func (e *expander) label(c *instructions.LabelCommand) {
	labels := &e.state.Config.Config.Labels
	if *labels == nil {
		*labels = make(map[string]string, len(c.Labels))
	}
	created := "LABEL"
	for _, kv := range c.Labels {
		if kv.NoDelim {
			e.lint.Run(&linter.RuleLegacyKeyValueFormat, c.Location(), linter.RuleLegacyKeyValueFormat.Format(c.Name()))
		}
		(*labels)[kv.Key] = kv.Value
		created += " " + kv.String()
	}
	e.metadata(created)
}

// once is the rule on an instruction of which the last one counts. before is where the latest one was.
func (e *expander) once(c instructions.Command, before *[]parser.Range) {
	if *before != nil {
		rule := &linter.RuleMultipleInstructionsDisallowed
		e.lint.Run(rule, *before, rule.Format(c.Name()))
	}
	*before = c.Location()
}

// command is the argv of CMD and ENTRYPOINT.
func (e *expander) command(c instructions.Command, line instructions.ShellDependantCmdLine) []string {
	if !line.PrependShell {
		return line.CmdLine
	}
	if len(e.state.Config.Config.Shell) == 0 {
		e.lint.Run(&linter.RuleJSONArgsRecommended, c.Location(), linter.RuleJSONArgsRecommended.Format(c.Name()))
	}
	return e.withShell(line.CmdLine)
}

func (e *expander) cmd(c *instructions.CmdCommand) {
	e.once(c, &e.cmdAt)
	args := e.command(c, c.ShellDependantCmdLine)
	e.state.Config.Config.Cmd = args
	e.state.Config.Config.ArgsEscaped = true
	e.metadata(fmt.Sprintf("CMD %q", args))
}

func (e *expander) entrypoint(c *instructions.EntrypointCommand) {
	e.once(c, &e.entrypointAt)
	args := e.command(c, c.ShellDependantCmdLine)
	e.state.Config.Config.Entrypoint = args
	if e.cmdAt == nil {
		e.state.Config.Config.Cmd = nil
	}
	e.metadata(fmt.Sprintf("ENTRYPOINT %q", args))
}

func (e *expander) healthcheck(c *instructions.HealthCheckCommand) {
	e.once(c, &e.healthcheckAt)
	h := c.Health
	e.state.Config.Config.Healthcheck = &v1.HealthConfig{
		Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod, Retries: h.Retries,
	}
	e.state.StartInterval = h.StartInterval
	e.metadata(fmt.Sprintf("HEALTHCHECK %+v", *h))
}

func (e *expander) volume(c *instructions.VolumeCommand) error {
	volumes := &e.state.Config.Config.Volumes
	if *volumes == nil {
		*volumes = make(map[string]struct{}, len(c.Volumes))
	}
	for _, v := range c.Volumes {
		if v == "" {
			return errors.New("VOLUME specified can not be an empty string")
		}
		(*volumes)[v] = struct{}{}
	}
	e.metadata(fmt.Sprintf("VOLUME %v", c.Volumes))
	return nil
}

// signals are the names that STOPSIGNAL takes, beside real-time ones. SIG may stand before each.
var signals = strings.Fields("ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS " +
	"TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX")

// validSignal says whether s is the number or the name of a signal.
func validSignal(s string) bool {
	if n, err := strconv.Atoi(s); err == nil {
		return n != 0
	}
	s = strings.TrimPrefix(strings.ToUpper(s), "SIG")
	for _, rt := range []struct {
		prefix string
		last   int
	}{{"RTMIN+", 15}, {"RTMAX-", 14}} {
		if digits, ok := strings.CutPrefix(s, rt.prefix); ok {
			n, err := strconv.Atoi(digits)
			return err == nil && n >= 1 && n <= rt.last && digits == strconv.Itoa(n)
		}
	}
	return slices.Contains(signals, s)
}

func (e *expander) stopSignal(c *instructions.StopSignalCommand) error {
	if !validSignal(c.Signal) {
		return fmt.Errorf("invalid signal: %s", c.Signal)
	}
	e.state.Config.Config.StopSignal = c.Signal
	e.metadata("STOPSIGNAL " + c.Signal)
	return nil
}
