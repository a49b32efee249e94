package dockerfile_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/strake-build/strake/dockerfile"
)

var update = flag.Bool("update", false, "write what comes out into testdata/*.txtar")

// TestGolden expands the Dockerfile of each archive in testdata and compares all that comes of it with the archive's
// file "want". The comment has settings, one in a line: target, arg, platform, build. "image NAME" files are configurations of bases.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := run(t, archive)
			want := archiveFile(archive, "want")
			if got == string(want.Data) {
				return
			}
			if !*update {
				t.Fatalf("got:\n%s\nwant:\n%s", got, want.Data)
			}
			want.Data = []byte(got)
			if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func archiveFile(a *txtar.Archive, name string) *txtar.File {
	for i := range a.Files {
		if a.Files[i].Name == name {
			return &a.Files[i]
		}
	}
	a.Files = append(a.Files, txtar.File{Name: name})
	return &a.Files[len(a.Files)-1]
}

// amd64 is the platform of all tests that name none.
var amd64 = v1.Platform{OS: "linux", Architecture: "amd64"}

func settings(t testing.TB, comment string) dockerfile.Settings {
	s := dockerfile.Settings{BuildArgs: map[string]string{}, Platform: amd64, Build: amd64}
	for line := range strings.Lines(comment) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		switch {
		case !ok || strings.HasPrefix(line, "#"):
		case key == "target":
			s.Target = value
		case key == "arg":
			k, v, _ := strings.Cut(value, "=")
			s.BuildArgs[k] = v
		case key == "context":
			s.Contexts = append(s.Contexts, value)
		case key == "all":
			s.AllStages = value == "true"
		case key == "check":
			s.CheckOnly = value == "true"
		case key == "ignored":
			ignored := strings.Fields(value)
			s.Ignored = func(path string) bool { return slices.Contains(ignored, path) }
		case key == "platform", key == "build":
			p, err := v1.ParsePlatform(value)
			if err != nil {
				t.Fatal(err)
			}
			if key == "build" {
				s.Build = *p
				break
			}
			s.Platform, s.PlatformGiven = *p, true
		default:
			t.Fatalf("unknown setting %q", key)
		}
	}
	return s
}

// run gives everything that the package says of an archive's Dockerfile.
func run(t testing.TB, archive *txtar.Archive) string {
	var b strings.Builder
	fail := func(err error) string {
		e, ok := errors.AsType[*dockerfile.Error](err)
		if !ok {
			t.Fatalf("%T is not an *Error: %v", err, err)
		}
		fmt.Fprintf(&b, "error %v\n", err)
		if e.Stage != "" || e.Instruction != "" {
			fmt.Fprintf(&b, "stage %q, instruction %q, lines %v\n", e.Stage, e.Instruction, e.Range)
		}
		b.WriteString(e.Excerpt())
		return b.String()
	}
	f, err := dockerfile.Parse("Dockerfile", archiveFile(archive, "Dockerfile").Data)
	if err != nil {
		return fail(err)
	}
	g, err := f.Graph(settings(t, string(archive.Comment)))
	if err != nil {
		return fail(err)
	}
	warnings := g.Warnings
	states := map[*dockerfile.Stage]dockerfile.State{}
	for _, s := range g.Stages {
		base := states[s.Base.Stage]
		from := "scratch"
		if c := s.Base.Context; c != "" {
			from = fmt.Sprintf("context %s, replaces %d", c, s.Base.Replaces)
			base = dockerfile.State{}
			if archiveHas(archive, "image "+c) {
				base = dockerfile.BaseState(baseConfig(t, archive, c))
			}
		} else if s.Base.Stage != nil {
			from = fmt.Sprintf("stage %d", s.Base.Stage.Index)
		} else if s.Base.Image != "" {
			from = "image " + s.Base.Image
			base = dockerfile.BaseState(baseConfig(t, archive, s.Base.Image))
		}
		fmt.Fprintf(&b, "stage %d %s from %s, %s, line %v\n", s.Index, s, from, s.Platform, s.Range)
		steps, after, err := g.Expand(s, base)
		if err != nil {
			return fail(err)
		}
		states[s] = after
		warnings = append(warnings, after.Warnings...)
		writeSteps(&b, steps)
		writeState(t, &b, after)
	}
	for _, w := range warnings {
		fmt.Fprintf(&b, "warning %v %s: %s %s\n", w.Range, w.Rule, w.Message, w.URL)
	}
	if err := g.Violation(warnings); err != nil {
		return fail(err)
	}
	return b.String()
}

func archiveHas(a *txtar.Archive, name string) bool {
	return slices.ContainsFunc(a.Files, func(f txtar.File) bool { return f.Name == name })
}

func baseConfig(t testing.TB, archive *txtar.Archive, image string) v1.ConfigFile {
	config := v1.ConfigFile{OS: "linux", Architecture: "amd64"}
	for _, f := range archive.Files {
		if f.Name == "image "+image {
			if err := json.Unmarshal(f.Data, &config); err != nil {
				t.Fatal(err)
			}
		}
	}
	return config
}

func writeSteps(b *strings.Builder, steps []dockerfile.Step) {
	for _, s := range steps {
		mark := ""
		if s.OnBuild {
			mark = "ONBUILD "
		}
		fmt.Fprintf(b, "  %v %s%s\n", s.Range, mark, s.Name)
		if s.Text != s.Name {
			fmt.Fprintf(b, "    text    %s\n", s.Text)
		}
		switch op := s.Op.(type) {
		case *dockerfile.Run:
			fmt.Fprintf(b, "    run     %q\n    env     %q\n    user    %q in %s\n", op.Args, op.Env, op.User, op.Dir)
			if op.Proxy != nil {
				fmt.Fprintf(b, "    proxy   %q\n", op.Proxy)
			}
			if op.Script != nil {
				fmt.Fprintf(b, "    script  %s %q\n", op.Script.Name, op.Script.Data)
			}
			writeSandbox(b, op)
		case *dockerfile.Copy:
			fmt.Fprintf(b, "    copy    %q to %q in %s, add %v, chown %q, chmod %q\n", op.Sources, op.Dest, op.Dir, op.Add, op.Chown, op.Chmod)
			if op.From != nil {
				fmt.Fprintf(b, "    from    %s\n", sourceName(op.From))
			}
			for _, f := range op.Inline {
				fmt.Fprintf(b, "    inline  %s %q\n", f.Name, f.Data)
			}
			writeCopyFlags(b, op)
		case *dockerfile.Workdir:
			fmt.Fprintf(b, "    workdir %s of %q\n", op.Dir, op.User)
		}
		layer := "layer"
		if s.History.EmptyLayer {
			layer = "empty"
		}
		fmt.Fprintf(b, "    history %s, %s, %q\n", layer, s.History.Comment, s.History.CreatedBy)
	}
}

func sourceName(s *dockerfile.Source) string {
	switch {
	case s == nil:
		return "nil"
	case s.Stage != nil:
		return fmt.Sprintf("stage %d", s.Stage.Index)
	case s.Context != "":
		return "context " + s.Context
	case s.Image != "":
		return "image " + s.Image
	}
	return "scratch"
}

func writeSandbox(b *strings.Builder, op *dockerfile.Run) {
	for _, m := range op.Mounts {
		fmt.Fprintf(b, "    mount   %s %q %q on %q", m.Type, sourceName(m.From), m.Source, m.Target)
		if m.ReadOnly {
			b.WriteString(", read only")
		}
		if m.Required {
			b.WriteString(", required")
		}
		if m.ID != "" || m.Env != "" {
			fmt.Fprintf(b, ", id %q %s, env %q", m.ID, m.Sharing, m.Env)
		}
		if m.Size != 0 {
			fmt.Fprintf(b, ", size %d", m.Size)
		}
		if m.Mode != nil {
			fmt.Fprintf(b, ", mode %o", *m.Mode)
		}
		if m.UID != nil {
			fmt.Fprintf(b, ", uid %d", *m.UID)
		}
		if m.GID != nil {
			fmt.Fprintf(b, ", gid %d", *m.GID)
		}
		b.WriteByte('\n')
	}
	if op.Network != dockerfile.NetworkDefault || op.Security != dockerfile.SecuritySandbox || op.Devices != nil {
		fmt.Fprintf(b, "    sandbox network %s, security %s, devices %v\n", op.Network, op.Security, op.Devices)
	}
}

func writeCopyFlags(b *strings.Builder, op *dockerfile.Copy) {
	if op.Link || op.Parents || op.Exclude != nil {
		fmt.Fprintf(b, "    flags   link %v, parents %v, exclude %q\n", op.Link, op.Parents, op.Exclude)
	}
	if op.Checksum != "" || op.Unpack != nil || op.KeepGitDir != nil {
		fmt.Fprintf(b, "    flags   checksum %q, unpack %s, keep-git-dir %s\n", op.Checksum, optional(op.Unpack), optional(op.KeepGitDir))
	}
	for _, r := range op.Remotes {
		fmt.Fprintf(b, "    remote  %d %s %q", r.Index, r.URL, r.Name)
		if g := r.Git; g != nil {
			fmt.Fprintf(b, ", git %s ref %q subdir %q commit %q, keep %s, submodules %s, unencrypted %v",
				g.Remote, g.Ref, g.Subdir, g.Commit, optional(g.KeepGitDir), optional(g.Submodules), g.UnencryptedTCP)
		}
		b.WriteByte('\n')
	}
}

func optional(v *bool) string {
	if v == nil {
		return "nil"
	}
	return fmt.Sprint(*v)
}

func writeState(t testing.TB, b *strings.Builder, s dockerfile.State) {
	config, err := json.Marshal(s.Config.Config)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(b, "  config %s", config)
	if p := s.Config.Platform(); p != nil {
		fmt.Fprintf(b, " %s", p)
	}
	if s.Config.Author != "" {
		fmt.Fprintf(b, " author %q", s.Config.Author)
	}
	if s.StartInterval != 0 {
		fmt.Fprintf(b, " start interval %v", s.StartInterval)
	}
	b.WriteByte('\n')
}
