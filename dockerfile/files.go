package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// This file has the instructions that touch the file system.

func (e *expander) run(c *instructions.RunCommand) error {
	op := &Run{
		Env:   e.state.env.all(),
		Proxy: e.g.proxy,
		User:  e.state.Config.Config.User,
		Dir:   e.dir(),

		Network:  Network(instructions.GetNetwork(c)),
		Security: Security(instructions.GetSecurity(c)),
	}
	for _, a := range e.state.args {
		op.Declared = append(op.Declared, a.key)
	}
	prefix := runPrefix(e.state.args, e.state.env)
	// Every RUN lists all variables: many RUNs after many ENVs would fill any memory.
	if err := e.vars.spend(listedVariable*(len(op.Env)+len(op.Declared)) + len(prefix)); err != nil {
		return err
	}
	if err := e.addMounts(op, c); err != nil {
		return err
	}
	for _, d := range instructions.GetDevices(c) {
		op.Devices = append(op.Devices, Device{Name: d.Name, Required: d.Required})
	}
	args, text := c.CmdLine, c.String()
	if len(c.Files) > 0 {
		if len(args) != 1 || !c.PrependShell {
			return fmt.Errorf("parsing produced an invalid run command: %v", args)
		}
		script, summary, err := runHeredoc(op, c)
		if err != nil {
			return err
		}
		args, text = []string{script}, text+summary
	}
	if c.PrependShell {
		args = e.withShell(args)
	}
	if len(args) == 0 {
		return errors.New("arguments are required")
	}
	op.Args = args

	lex := *e.lex()
	lex.RawQuotes, lex.RawEscapes, lex.SkipUnsetEnv = true, true, true
	created := "RUN " + prefix + strings.Join(args, " ") + " # buildkit"
	e.step(op, title(&lex, text, e.maskSecrets(op.Mounts)), v1.History{CreatedBy: created})
	return nil
}

// addMounts gives a RUN its mounts, and the variable that names the socket of its first ssh agent.
func (e *expander) addMounts(op *Run, c *instructions.RunCommand) error {
	mounts, socket, err := e.mounts(c)
	if err != nil {
		return err
	}
	op.Mounts = mounts
	if _, ok := e.state.env.Get(agentVariable); socket != "" && !ok {
		op.Env = append(op.Env, agentVariable+"="+socket)
	}
	return nil
}

// agentVariable is where programs look for the socket of an ssh agent.
const agentVariable = "SSH_AUTH_SOCK"

// maskSecrets are the variables that a title may show: those that are secrets are not.
func (e *expander) maskSecrets(mounts []Mount) *meter {
	var masked *environ
	for _, m := range mounts {
		if m.Env == "" {
			continue
		}
		if masked == nil {
			masked = e.state.env.clone()
		}
		masked.set(m.Env, "****")
	}
	if masked == nil {
		return e.vars
	}
	return newMeter(masked, &e.g.left)
}

// runHeredoc gives what the shell is to run for a RUN with heredocs, and what its title says of them. One heredoc and nothing
// else is the text itself, or a script of its own; otherwise the shell reads the heredocs.
func runHeredoc(op *Run, c *instructions.RunCommand) (text, summary string, err error) {
	first := c.Files[0]
	if parser.MustParseHeredoc(c.CmdLine[0]) == nil {
		var b strings.Builder
		b.WriteString(c.CmdLine[0])
		for _, file := range c.Files {
			b.WriteByte('\n')
			b.WriteString(file.Data)
			b.WriteString(file.Name)
		}
		return b.String(), "", nil
	}
	text = first.Data
	if first.Chomp {
		text = parser.ChompHeredocContent(text)
	}
	if strings.HasPrefix(text, "#!") {
		name, err := inlineName(first.Name)
		if err != nil {
			return "", "", err
		}
		op.Script = &Inline{Name: name, Data: []byte(text)}
		text = path.Join(ScriptDir, name)
	}
	summary, rest, _ := strings.Cut(strings.ReplaceAll(strings.TrimSpace(first.Data), "\r\n", "\n"), "\n")
	if rest != "" {
		summary += "..."
	}
	return text, " (" + summary + ")", nil
}

// inlineName is the file name that a heredoc's name stands for: what is left of it in an empty root folder.
func inlineName(s string) (string, error) {
	name := path.Clean("/" + s)[1:]
	if name == "" || strings.Contains(name, "/") {
		return "", fmt.Errorf("heredoc name %q is not a file name", s)
	}
	return name, nil
}

// withShell puts the shell before a command in shell form.
func (e *expander) withShell(args []string) []string {
	sh := e.state.Config.Config.Shell
	if len(sh) == 0 {
		sh = []string{"/bin/sh", "-c"}
	}
	return append(append([]string(nil), sh...), strings.Join(args, " "))
}

// dir is the working directory; an image that has none starts in "/".
func (e *expander) dir() string {
	if d := e.state.Config.Config.WorkingDir; d != "" {
		return d
	}
	return "/"
}

func (e *expander) workdir(c *instructions.WorkdirCommand) error {
	if !e.state.workdirSet && !path.IsAbs(c.Path) {
		e.lint.Run(&linter.RuleWorkdirRelativePath, c.Location(), linter.RuleWorkdirRelativePath.Format(c.Path))
	}
	e.state.workdirSet = true
	dir := joinDir(e.state.Config.Config.WorkingDir, c.Path)
	e.state.Config.Config.WorkingDir = dir
	if dir == "/" {
		e.step(nil, title(e.lex(), c.String(), e.vars), v1.History{CreatedBy: "WORKDIR " + dir, EmptyLayer: true})
		return nil
	}
	op := &Workdir{Dir: path.Clean(dir), User: e.state.Config.Config.User}
	e.step(op, title(e.lex(), c.String(), e.vars), v1.History{CreatedBy: "WORKDIR " + dir})
	return nil
}

// joinDir is a working directory that is written as dir where current is one. An absolute one is taken as it is written.
func joinDir(current, dir string) string {
	if dir == "" {
		dir = current
	}
	if path.IsAbs(dir) {
		return dir
	}
	return path.Join("/", current, dir)
}

// destPath is where COPY copies to: relative to the working directory, a slash at the end is kept, and "." is a folder.
func destPath(current, dest string) string {
	folder := dest == "" || dest == "." || strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, "/.")
	if !path.IsAbs(dest) {
		dest = path.Join("/", current, dest)
	} else if folder {
		dest = strings.TrimSuffix(dest, ".")
	}
	if folder && !strings.HasSuffix(dest, "/") {
		dest += "/"
	}
	return dest
}

func (e *expander) copy(c *instructions.CopyCommand) error {
	op := &Copy{Chown: c.Chown, Chmod: c.Chmod, Link: c.Link, Exclude: c.ExcludePatterns, Parents: c.Parents}
	if c.From != "" {
		if err := e.g.checkForward(e.stage, c); err != nil {
			return err
		}
		var err error
		if op.From, err = e.g.source(c.From); err != nil {
			return err
		}
	}
	for _, src := range c.SourcePaths {
		if isGit(src) {
			if _, err := ParseGitRef(src); err != nil {
				return err
			}
			return errors.New("source can't be a git ref for COPY")
		}
		if isHTTP(src) {
			return errors.New("source can't be a URL for COPY")
		}
	}
	return e.addCopy(op, &c.SourcesAndDest, c.String())
}

func (e *expander) add(c *instructions.AddCommand) error {
	op := &Copy{
		Add: true, Chown: c.Chown, Chmod: c.Chmod, Link: c.Link, Exclude: c.ExcludePatterns,
		Checksum: c.Checksum, Unpack: c.Unpack, KeepGitDir: c.KeepGitDir, Sources: c.SourcePaths,
	}
	if c.Checksum != "" {
		if len(c.SourcePaths) != 1 {
			return errors.New("checksum can't be specified for multiple sources")
		}
		if src := c.SourcePaths[0]; !isHTTP(src) && !isGit(src) {
			return errors.New("checksum requires HTTP(S) or Git sources")
		}
	}
	var err error
	if op.Remotes, err = remotes(op); err != nil {
		return err
	}
	return e.addCopy(op, &c.SourcesAndDest, c.String())
}

// addCopy is what COPY and ADD share.
func (e *expander) addCopy(op *Copy, paths *instructions.SourcesAndDest, text string) error {
	if err := e.checkChmod(op.Chmod); err != nil {
		return err
	}
	op.Link = op.Link && op.Chmod == ""
	e.lintIgnored(op, paths.SourcePaths)
	op.Dir = e.dir()
	op.Dest = destPath(op.Dir, paths.DestPath)
	op.Sources = paths.SourcePaths

	var created strings.Builder
	created.WriteString("COPY")
	if op.Add {
		created.Reset()
		created.WriteString("ADD")
	}
	if op.Parents {
		created.WriteString(" --parents")
	}
	if op.Chown != "" {
		created.WriteString(" --chown=" + op.Chown)
	}
	if op.Chmod != "" {
		created.WriteString(" --chmod=" + op.Chmod)
	}
	for _, src := range paths.SourcePaths {
		created.WriteString(" " + src)
	}
	for _, doc := range paths.SourceContents {
		name, err := inlineName(doc.Path)
		if err != nil {
			return err
		}
		op.Inline = append(op.Inline, Inline{Name: name, Data: []byte(doc.Data)})
		created.WriteString(" <<" + doc.Path)
	}
	created.WriteString(" " + paths.DestPath + " # buildkit")
	e.step(op, title(e.lex(), text, e.vars), v1.History{CreatedBy: created.String()})
	return nil
}

// checkChmod refuses a mode that is none.
func (e *expander) checkChmod(mode string) error {
	if mode == "" {
		return nil
	}
	_, err := ParseMode(mode)
	return err
}
