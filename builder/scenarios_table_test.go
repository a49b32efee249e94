package builder_test

import (
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/runner"
)

// scenarios are changes and what they must run again.
func scenarios() []scenario {
	return slices.Concat(fileScenarios(), metadataScenarios(), ignoreScenarios(), stepScenarios(), documentScenarios(), stageScenarios(),
		argumentScenarios(), baseScenarios(), remoteScenarios(), otherScenarios())
}

func fileScenarios() []scenario {
	return []scenario{
		{name: "nothing"},
		{name: "a copied file is touched", edit: touch("src/a.go")},
		{name: "a copied file", edit: file("src/a.go", "22"), want: "BMS"},
		{name: "a copied file of the same size", edit: file("src/a.go", "2"), want: "BMS"},
		{name: "a copied file of the same size and time", want: "BMS", edit: do(func(w *world) error {
			w.write("src/a.go", "2")
			past := time.Unix(1_600_000_000, 0)
			return os.Chtimes(w.path("src/a.go"), past, past)
		})},
		{name: "a copied file is written again as it was", edit: file("src/a.go", "1")},
		{name: "a copied file's mode", edit: chmod("src/a.go", 0o755), want: "BMS"},
		{name: "the mode of the copied folder", edit: chmod("src", 0o700)},
		{name: "the mode of a folder in it", edit: chmod("src/d", 0o700), want: "BMS"},
		{name: "the time of a folder in it", edit: touch("src/d")},
		{name: "a new file", edit: file("src/n", ""), want: "BMS"},
		{name: "a new file, deep", edit: file("src/d/e/f/n", ""), want: "BMS"},
		{name: "a new folder", edit: do(func(w *world) error { return os.Mkdir(w.path("src/e"), 0o755) }), want: "BMS"},
		{name: "a file less", edit: do(func(w *world) error { return os.Remove(w.path("src/b.txt")) }), want: "BMS"},
		{name: "a file of another name", edit: do(func(w *world) error { return os.Rename(w.path("src/b.txt"), w.path("src/c.txt")) }), want: "BMS"},
		{name: "a file in another folder", edit: do(func(w *world) error { return os.Rename(w.path("src/b.txt"), w.path("src/d/b.txt")) }), want: "BMS"},
		{name: "a link for a file", want: "BMS", edit: do(func(w *world) error {
			must(w.t, os.Remove(w.path("src/b.txt")))
			return os.Symlink("a.go", w.path("src/b.txt"))
		})},
		{name: "a link's target", want: "BMS", edit: do(func(w *world) error {
			must(w.t, os.Remove(w.path("src/l")))
			return os.Symlink("h", w.path("src/l"))
		})},
		{name: "a link to the copied folder in its place", edit: do(func(w *world) error {
			must(w.t, os.Rename(w.path("src"), w.path("src2")))
			return os.Symlink("src2", w.path("src"))
		})},
		{name: "a folder for a file", want: "BMS", edit: instead("src/b.txt", func(path string) error { return os.Mkdir(path, 0o755) })},
		{name: "a file for a folder", want: "BMS", edit: instead("src/d", func(path string) error { return os.WriteFile(path, []byte("1"), 0o644) })},
		{name: "a link for a folder", want: "BMS", edit: instead("src/d", func(path string) error { return os.Symlink(".", path) })},
		{name: "a folder for a link", want: "BMS", edit: instead("src/l", func(path string) error { return os.Mkdir(path, 0o755) })},
		{name: "a file for a link to one like it", want: "BMS", edit: instead("src/l", func(path string) error { return os.WriteFile(path, []byte("1"), 0o644) })},
		{name: "nothing in a file", edit: file("src/b.txt", ""), want: "BMS"},
		{name: "two files that change places", begin: file("src/b.txt", "2"), want: "BMS", edit: do(func(w *world) error {
			must(w.t, os.Rename(w.path("src/b.txt"), w.path("src/n")))
			must(w.t, os.Rename(w.path("src/h"), w.path("src/b.txt")))
			return os.Rename(w.path("src/n"), w.path("src/h"))
		})},
		{name: "a file of another name's case", edit: do(func(w *world) error { return os.Rename(w.path("src/h"), w.path("src/H")) }), want: "BMS"},
		{
			name: "a second name less", begin: do(func(w *world) error { return os.Link(w.path("src/a.go"), w.path("src/second")) }),
			want: "BMS", edit: instead("src/second", func(path string) error { return os.WriteFile(path, []byte("1"), 0o644) }),
		},
		{name: "a second name for a file of the same content", want: "BMS", edit: do(func(w *world) error {
			must(w.t, os.Remove(w.path("src/h")))
			must(w.t, os.Chtimes(w.path("src/a.go"), time.Unix(9, 0), time.Unix(9, 0)))
			return os.Link(w.path("src/a.go"), w.path("src/h"))
		})},
		{name: "an owner", edit: do(func(w *world) error {
			if err := os.Chown(w.path("src/a.go"), 5, 5); err != nil && !layersHere().RecordOwners { // who has one id cannot
				return err
			}
			return nil
		})},
		{name: "an attribute", want: "BMS", edit: do(func(w *world) error { return unix.Setxattr(w.path("src/a.go"), "user.x", []byte("1"), 0) })},
		{name: "a file that nothing reads", edit: file("unused", "2")},
		{name: "a new file that nothing reads", edit: file("other/n", "2")},
		{name: "the last copied file", edit: file("top", "2"), want: "LT"},
		{name: "the last copied file is touched", edit: touch("top")},
		{name: "the mode of the mounted folder", edit: chmod("conf", 0o750), want: "CM"},
		{name: "a mounted file", edit: file("conf/x", "2"), want: "CM"},
		{name: "a mounted file is touched", edit: touch("conf/x")},
		{name: "a new mounted file", edit: file("conf/n", "2"), want: "CM"},
		{name: "two files of two steps", edit: func(w *world) { w.write("src/a.go", "2"); w.write("top", "2") }, want: "BLMST"},
	}
}

func metadataScenarios() []scenario {
	return []scenario{
		{name: "a comment", replace: []string{"WORKDIR", "# why\nWORKDIR"}},
		{name: "blank lines", replace: []string{"WORKDIR", "\n\nWORKDIR"}},
		{name: "small letters", replace: []string{"COPY top", "copy top", "FROM base\n", "from base\n"}},
		{name: "spaces", replace: []string{"COPY top /top", "COPY   top    /top"}},
		{name: "a syntax", replace: []string{"FROM base AS", "# syntax=docker/dockerfile:1\nFROM base AS"}},
		{name: "a label", replace: []string{"a=b", "a=c"}},
		{name: "a label amid steps", replace: []string{"WORKDIR", "LABEL x=y\nWORKDIR"}},
		{name: "a command", replace: []string{`CMD ["x"]`, `CMD ["y"]`}},
		{name: "an entry point", replace: []string{"CMD", "ENTRYPOINT [\"e\"]\nCMD"}},
		{name: "a port", replace: []string{"COPY top", "EXPOSE 80\nCOPY top"}},
		{name: "a volume", replace: []string{"CMD", "VOLUME /v\nCMD"}},
		{name: "a signal", replace: []string{"CMD", "STOPSIGNAL 9\nCMD"}},
		{name: "a check", replace: []string{"CMD", "HEALTHCHECK NONE\nCMD"}},
		{name: "a trigger", replace: []string{"CMD", "ONBUILD RUN x\nCMD"}},
		{name: "a shell, of steps without one", text: "FROM base\nCOPY top /\nRUN [\"sh\",\"-c\",\"echo x >/built\"]\n", replace: []string{"COPY", "SHELL [\"/bin/x\"]\nCOPY"}},
		{name: "a stage's name", replace: []string{"AS build", "AS maker", "--from=build", "--from=maker"}},
		{name: "a stage by its number", replace: []string{"--from=build", "--from=0"}},
		{name: "an unused stage", replace: []string{"FROM base\n", "FROM base AS unused\nRUN false\nFROM base\n"}},
		{name: "a stage before", replace: []string{"FROM base AS build", "FROM base AS unused\nRUN false\nFROM base AS build"}},
		{name: "a label of the build", second: option(func(o *builder.Options) { o.Labels = map[string]string{"x": "y"} })},
		{name: "a target that has what is there", text: usual, inline: "BMSW", second: option(func(o *builder.Options) { o.Settings.Target = "build" })},
		{name: "more at once", second: option(func(o *builder.Options) { o.Jobs = 1 })},
		{name: "the last step less", replace: []string{"RUN echo z >/last\n", ""}},
	}
}

func stepScenarios() []scenario {
	return []scenario{
		{name: "a command that makes another file", replace: []string{"echo x", "echo xx"}, want: "ABLMT"},
		{name: "a command that makes the same", replace: []string{"echo x", "echo  x"}, want: "B", cut: true},
		{name: "a command of which another stage reads nothing", replace: []string{"sort >", "sort -r >"}, want: "M"},
		{name: "a shell", replace: []string{"WORKDIR", "SHELL [\"/bin/busybox\", \"sh\", \"-c\"]\nWORKDIR"}, want: "BM", cut: true},
		{name: "the last command", replace: []string{"echo z", "echo zz"}, want: "L"},
		{name: "a step more, at the end", replace: []string{"LABEL", "RUN echo n >/new\nLABEL"}, want: "N"},
		{name: "a step more, at the start", replace: []string{"COPY src", "RUN echo n >/new\nCOPY src"}, want: "BMNS"},
		{name: "a step more that makes nothing", replace: []string{"COPY src", "RUN true # >/new\nCOPY src"}, want: "BMNS"},
		{name: "a step less", replace: []string{"COPY top /top\n", ""}, want: "L"},
		{name: "two steps in another order", replace: []string{"COPY top /top\nRUN echo z >/last", "RUN echo z >/last\nCOPY top /top"}, want: "LT"},
		{name: "another folder of work", replace: []string{"/w", "/v"}, want: "BMSW"},
		{name: "a destination", replace: []string{"top /top", "top /top2"}, want: "LT"},
		{name: "an owner of a copy", replace: []string{"COPY top", "COPY --chown=1:1 top"}, want: "LT"},
		{name: "a mode of a copy", replace: []string{"COPY top", "COPY --chmod=600 top"}, want: "LT"},
		{name: "another copied file of the same content", replace: []string{"COPY top /top", "COPY unused /top"}, want: "T", cut: true},
		{name: "ADD for COPY", replace: []string{"COPY top", "ADD top"}, want: "T", cut: true},
		{name: "another file of a stage", replace: []string{"/built /app", "/conf /app"}, want: "ALT"},
		{name: "a file of a stage to another place", replace: []string{"/built /app", "/built /app2"}, want: "ALT"},
		{name: "a mount's target", replace: []string{"target=/c", "target=/d"}, want: "M"},
		{name: "a mount that can be written to", replace: []string{"target=/c", "target=/c,rw"}, want: "M"},
		{name: "a mount of another folder", replace: []string{"source=conf", "source=src"}, want: "CM"},
		{name: "a mount more", replace: []string{"RUN echo x", "RUN --mount=type=tmpfs,target=/t echo x"}, want: "B", cut: true},
		{name: "a mount's size", text: strings.Replace(usual, "RUN echo x", "RUN --mount=type=tmpfs,target=/t,size=1m echo x", 1), replace: []string{"size=1m", "size=2m"}, want: "B", cut: true, namespaces: true},
		{name: "a secret more", replace: []string{"RUN echo x", "RUN --mount=type=secret,id=s echo x"}, want: "B", cut: true},
		{name: "a network", replace: []string{"RUN echo x", "RUN --network=none echo x"}, want: "B", cut: true, namespaces: true},
		{name: "a user", replace: []string{"RUN echo x", "USER 0:5\nRUN echo x"}, want: "ABLMT"},
		{name: "a pattern that matches a new file", text: "FROM base\nCOPY src/*.go /s/\n", edit: file("src/n.go", ""), want: "S"},
		{name: "a pattern that does not", text: "FROM base\nCOPY src/*.go /s/\n", edit: file("src/n.txt", "")},
		{name: "a file left out", text: "FROM base\nCOPY --exclude=*.txt src/ /s/\n", edit: file("src/b.txt", "2")},
		{name: "a file not left out", text: "FROM base\nCOPY --exclude=*.txt src/ /s/\n", edit: file("src/a.go", "2"), want: "S"},
		{name: "a folder that a pattern matches", text: "FROM base\nCOPY src/* /s/\n", edit: file("src/e/n", ""), want: "S"},
		{name: "a file beside one with its parents", text: "FROM base\nCOPY --parents src/d/c.go /p/\n", edit: file("src/d/n.go", "")},
		{name: "a file with its parents", text: "FROM base\nCOPY --parents src/d/c.go /p/\n", edit: file("src/d/c.go", "2"), want: "S"},
		{name: "the mode of a parent", text: "FROM base\nCOPY --parents src/d/c.go /p/\n", edit: chmod("src/d", 0o700), want: "S"},
		{name: "a mount that is kept", replace: []string{"RUN echo x", "RUN --mount=type=cache,target=/t echo x"}, want: "B", cut: true},
		{name: "the name of a mount that is kept", text: "FROM base\nRUN --mount=type=cache,id=a,target=/t echo x >/built\n", replace: []string{"id=a", "id=b"}},
		{name: "a number of a user's name", text: named, replace: []string{"u:x:5", "u:x:6"}, want: "BS"},
		{name: "a number of a user's name, for a linked copy", text: strings.Replace(named, "COPY", "COPY --link", 1), replace: []string{"u:x:5", "u:x:6"}, want: "BS", inline: "BS"},
		{name: "another user, where the number of a name stays", text: named, replace: []string{"v:x:5", "v:x:6"}, want: "BS"},
		{name: "the same, for a linked copy", text: strings.Replace(named, "COPY", "COPY --link", 1), replace: []string{"v:x:5", "v:x:6"}, want: "B", inline: "BS"},
		{name: "a linked copy on another base", inline: "S", text: "FROM base\nCOPY --link src/ /s/\n", replace: []string{"FROM base", "FROM other"}},
	}
}

// named has a user that a copy names.
const named = `FROM base
RUN mkdir /etc; echo u:x:5:5::/:/ >/etc/passwd; echo v:x:5:5::/:/ >>/etc/passwd # >/built
COPY --chown=u src/ /s/
`

// ignoreScenarios are of .dockerignore.
func ignoreScenarios() []scenario {
	rules := func(text string) func(*world) { return file(".dockerignore", text) }
	const all = "FROM base\nCOPY . /src/\n"
	return []scenario{
		{name: "a rule that matches nothing", edit: rules("nothing\n")},
		{name: "a rule that matches what nothing reads", edit: rules("unused\n")},
		{name: "a rule that matches a copied file", edit: rules("src/b.txt\n"), want: "BMS"},
		{name: "a rule that matches a mounted file", edit: rules("conf/x\n"), want: "CM"},
		{name: "a rule that is taken back for a file", begin: rules("src/*.txt\n"), edit: rules("src/*.txt\n!src/b.txt\n"), want: "BMS"},
		{name: "a rule in other words", begin: rules("src/*.txt\n"), edit: rules("# why\n**/b.txt\n")},
		{name: "no rules any more", begin: rules("src/b.txt\n"), edit: do(func(w *world) error { return os.Remove(w.path(".dockerignore")) }), want: "BMS"},
		{name: "a file that a rule matches", begin: rules("src/b.txt\n"), edit: file("src/b.txt", "2")},
		{name: "a new file that a rule matches", begin: rules("**/*.tmp\n"), edit: file("src/d/n.tmp", "2")},
		{name: "the rules, copied", text: all, begin: rules("unused\n"), edit: rules("# why\nunused\n"), want: "S"},
		{name: "the rules, which match themselves", text: all, begin: rules("unused\n.dockerignore\n"), edit: rules("# why\nunused\n.dockerignore\n")},
	}
}

// documentScenarios are of here-documents.
func documentScenarios() []scenario {
	return []scenario{
		{name: "a document", text: "FROM base\nCOPY <<E /h\n1\nE\n", replace: []string{"\n1\n", "\n2\n"}, want: "H"},
		{name: "a document's name", text: "FROM base\nCOPY <<E /h\n1\nE\n", replace: []string{"E", "F", "FROM bASF", "FROM base", "COPY <<F", "COPY <<F"}, want: "H"},
		{name: "a variable in a document", text: "FROM base\nARG D=1\nCOPY <<E /h\n$D\nE\n", second: []change{arg("D", "2")}, want: "H"},
		{name: "a variable in a document that has none", text: "FROM base\nARG D=1\nCOPY <<\"E\" /h\n$D\nE\n", second: []change{arg("D", "2")}},
		{name: "a script", text: "FROM base\nRUN <<E\necho 1 >/built\nE\n", replace: []string{"echo 1", "echo 2"}, want: "B"},
		{name: "a script of another program", text: "FROM base\nRUN <<E\n#!/bin/sh\necho 1 >/built\nE\n", replace: []string{"/bin/sh", "/bin/busybox sh"}, want: "H", cut: true},
	}
}

// stageScenarios are of what steps take from other stages and from named contexts.
func stageScenarios() []scenario {
	const (
		folder  = "FROM base AS build\nCOPY src/ /src/\nFROM base\nCOPY --from=build /src /g/\nRUN echo z >/last\n"
		pattern = "FROM base AS build\nCOPY src/ /src/\nFROM base\nCOPY --from=build /src/*.go /g/\nRUN echo z >/last\n"
		mount   = "FROM base AS build\nCOPY src/ /src/\nFROM base\nRUN --mount=from=build,source=/src/d,target=/m cat /m/* >/last\n"
		linked  = "FROM base AS build\nRUN mkdir /o; echo 1 >/o/a; ln /o/a /o/b # >/built\nFROM base\nCOPY --from=build /o /o\n"
		given   = "FROM base\nCOPY --from=given /f /f\nRUN --mount=from=given,source=/m,target=/m cat /m/* >/last\n"
	)
	context := func(w *world) { w.write("contexts/given/f", "1"); w.write("contexts/given/m/f", "1") }
	return []scenario{
		{name: "a file of another name in a stage", text: folder, edit: do(func(w *world) error { return os.Rename(w.path("src/b.txt"), w.path("src/c.txt")) }), want: "ALS"},
		{name: "a file's mode in a stage", text: folder, edit: chmod("src/b.txt", 0o600), want: "ALS"},
		{name: "a new folder in a stage", text: folder, edit: do(func(w *world) error { return os.Mkdir(w.path("src/e"), 0o755) }), want: "ALS"},
		{name: "a file that a pattern matches in a stage", text: pattern, edit: file("src/n.go", ""), want: "ALS"},
		{name: "a file that no pattern matches in a stage", text: pattern, edit: file("src/n.txt", ""), want: "S", inline: "ALS"},
		{name: "a file that a mount of a stage shows", text: mount, edit: file("src/d/c.go", "2"), want: "LS"},
		{name: "a file that no mount of a stage shows", text: mount, edit: file("src/b.txt", "2"), want: "S", inline: "LS"},
		{name: "a copy for a second name in a stage", text: linked, replace: []string{"ln /o/a", "cp /o/a"}, want: "AB"},
		{name: "a second name of another name in a stage", text: linked, replace: []string{"/o/b", "/o/c"}, want: "AB"},
		{name: "a file of a context", text: given, begin: context, edit: file("contexts/given/f", "2"), want: "AL"},
		{name: "a file that a mount of a context shows", text: given, begin: context, edit: file("contexts/given/m/f", "2"), want: "CL"},
		{name: "a file of a context that nothing reads", text: given, begin: context, edit: file("contexts/given/n", "2")},
		{
			name: "a context of the same files", text: "FROM base\nCOPY --from=given /f /f\n", replace: []string{"=given", "=more"},
			begin: func(w *world) { context(w); w.write("contexts/more/f", "1") },
		},
	}
}

func argumentScenarios() []scenario {
	return []scenario{
		{name: "an argument in a destination", text: "FROM base\nARG D=a\nCOPY src/ /$D\n", second: []change{arg("D", "b")}, want: "S"},
		{name: "an argument in a source", text: "FROM base\nARG D=a.go\nCOPY src/$D /n\n", second: []change{arg("D", "h")}, want: "S", cut: true},
		{name: "an argument in a folder of work", text: "FROM base\nARG D=a\nWORKDIR /$D\nCOPY top top\n", second: []change{arg("D", "b")}, want: "TW"},
		{name: "an argument in a command", text: "FROM base\nARG D=a\nRUN echo $D >/built\n", second: []change{arg("D", "b")}, want: "B"},
		{name: "an argument in a base's name", text: "ARG D=base\nFROM $D\nCOPY top /\n", second: []change{arg("D", "same")}},
		{name: "a variable set again", replace: []string{"ENV E=1 F=1", "ENV E=1 F=1\nENV E=1"}, want: "BM", cut: true},
		{name: "a variable set to itself", replace: []string{"ENV E=1 F=1", "ENV E=1 F=1\nENV E=$E"}, want: "BM", cut: true},
		{name: "a variable of an argument", text: "FROM base\nARG V=1\nENV E=$V\nCOPY top /\nRUN echo x >/built\n", second: []change{arg("V", "2")}, want: "B", cut: true},
		{name: "an argument", second: []change{arg("V", "1")}, want: "BM", cut: true},
		{name: "an argument's value", first: []change{arg("V", "1")}, second: []change{arg("V", "2")}, want: "BM", cut: true},
		{name: "an argument given as its default", replace: []string{"ARG V\n", "ARG V=1\n"}, first: []change{arg("V", "1")}},
		{name: "an argument nobody declared", second: []change{arg("U", "1")}},
		{name: "an argument declared after all steps", replace: []string{"CMD", "ARG U=1\nCMD"}},
		{name: "an argument of the other stage", replace: []string{"RUN echo z", "ARG V\nRUN echo z"}},
		{name: "a default of an argument", replace: []string{"ARG V\n", "ARG V=1\n"}, want: "BM", cut: true},
		{name: "a proxy", second: []change{arg("http_proxy", "http://localhost:1")}},
		{name: "a variable", replace: []string{"E=1", "E=2"}, want: "BM", cut: true},
		{name: "a variable more", replace: []string{"F=1", "F=1 G=1"}, want: "BM", cut: true},
		{name: "a variable less", replace: []string{" F=1", ""}, want: "BM", cut: true},
		{name: "a variable of the last step alone", replace: []string{"RUN echo z", "ENV X=1\nRUN echo z"}, want: "L"},
		{name: "a variable after all steps", replace: []string{"CMD", "ENV X=1\nCMD"}},
		{name: "a variable in two lines", replace: []string{"ENV E=1 F=1", "ENV E=1\nENV F=1"}},
		{name: "an argument for a variable of the same value", replace: []string{"ENV E=1 F=1", "ENV E=1\nARG F=1"}},
	}
}

// baseScenarios are of images that stages begin with.
func baseScenarios() []scenario {
	triggers := func(digit string, triggers ...string) func(*world) {
		return func(w *world) {
			w.images["triggers"] = w.testImage(digit)
			w.images["triggers"].Config.Config.Env, w.images["triggers"].Config.Config.OnBuild = nil, triggers
		}
	}
	const on = "FROM triggers\nRUN echo z >/last\n"
	return []scenario{
		{name: "a base with another file", want: "ABLMSTW", edit: func(w *world) {
			w.images["base"] = w.must("FROM base\nCOPY unused /unused\n")
		}},
		{name: "a base's trigger", text: on, begin: triggers("4", "COPY top /top"), edit: triggers("5", "COPY top /top2"), want: "LT", inline: "LT"},
		{name: "a trigger more", text: on, begin: triggers("4"), edit: triggers("5", "COPY top /top"), want: "LT", inline: "LT"},
		{name: "a base of the same trigger", text: on, begin: triggers("4", "COPY top /top"), edit: triggers("5", "COPY top /top"), inline: "LT"},
		{name: "a trigger's file", text: on, begin: triggers("4", "COPY top /top"), edit: file("top", "2"), want: "LT"},
		{name: "a trigger that only sets a variable", text: on, begin: triggers("4"), edit: triggers("5", "ENV X=1"), want: "L", cut: true},
		{name: "a base of the same files with other variables", edit: func(w *world) { w.images["base"] = w.testImage("2") }, want: "BLM", cut: true},
		{name: "the same base by another name", replace: []string{"FROM base AS", "FROM same AS", "FROM base\n", "FROM same\n"}},
		{name: "another base of one stage", replace: []string{"FROM base\n", "FROM other\n"}, want: "L", cut: true},
		{name: "a base with another configuration of what steps do not see", inline: "ABLMSTW", edit: func(w *world) {
			img := *w.testImage("1")
			img.ID.Hex, img.Config.Author = strings.Repeat("3", 64), "x"
			w.images["base"] = &img
		}},
	}
}

// remoteScenarios are of what is added from servers, and of archives.
func remoteScenarios() []scenario {
	const (
		text = "FROM base\nADD " + site + "f /top\nRUN echo z >/last\n"
		git  = "FROM base\nADD " + site + "repo.git#main /top\nRUN echo z >/last\n"
		pack = "FROM base\nADD pack.tar /top/\nRUN echo z >/last\n"
	)
	return []scenario{
		{name: "a file of a server", text: text, begin: file("site/f", "1"), edit: file("site/f", "2"), want: "LT"},
		{name: "a file of a server is touched", text: text, begin: file("site/f", "1"), edit: touch("site/f")},
		{name: "another file of a server", text: text, begin: file("site/f", "1"), edit: file("site/g", "2")},
		{name: "a branch of a repository", text: git, begin: commit("main", "f", "1"), edit: commit("main", "f", "2"), want: "LT", program: "git"},
		{name: "another branch of a repository", text: git, begin: commit("main", "f", "1"), edit: commit("other", "f", "2"), program: "git"},
		{name: "an archive", text: pack, begin: archive("f", "1", 5), edit: archive("f", "2", 5), want: "LT"},
		{name: "an archive of the same files", text: pack, begin: archive("f", "1", 5), edit: archive("f", "1", 7), want: "T", cut: true},
		{name: "an archive that is not unpacked", text: pack, begin: archive("f", "1", 5), replace: []string{"ADD ", "ADD --unpack=false "}, want: "LT"},
	}
}

func otherScenarios() []scenario {
	const secretly = "FROM base\nRUN --mount=type=secret,id=s echo x >/built\n"
	platform := option(func(o *builder.Options) { o.Settings.Platform.Architecture, o.Settings.PlatformGiven = "arm64", true })
	return []scenario{
		{name: "a secret's value", text: secretly, first: secret("1", false), second: secret("2", false)},
		{name: "a secret that is not there", text: secretly, first: secret("1", false)},
		{name: "a secret's value that counts", text: secretly, first: secret("1", true), second: secret("2", true), want: "B", cut: true, here: true},
		{name: "a secret that counts, of the same value", text: secretly, first: secret("1", true), second: secret("1", true), here: true},
		{name: "another platform", second: platform, here: true},
		{name: "another platform, of which a step asks", text: "FROM base\nARG TARGETARCH\nCOPY top /\nRUN echo x >/built\n", second: platform, want: "B", cut: true},
		{name: "times that are bounded", second: append(option(func(o *builder.Options) { o.RewriteTimestamps = true }), arg("SOURCE_DATE_EPOCH", "5")), want: "ABCLMSTW"},
		{name: "the size of shared memory", second: option(func(o *builder.Options) { o.Sandbox.ShmSize = 1 << 20 }), want: "BLM", cut: true, namespaces: true},
		{name: "a time for all files", second: []change{arg("SOURCE_DATE_EPOCH", "5")}, want: "BMSW"},
		{name: "a host", second: option(func(o *builder.Options) { o.Sandbox.ExtraHosts = []string{"1.2.3.4\tn"} }), want: "BLM", cut: true},
		{
			name: "a host's address", first: option(func(o *builder.Options) { o.Sandbox.ExtraHosts = []string{"1.2.3.4\tn"} }),
			second: option(func(o *builder.Options) { o.Sandbox.ExtraHosts = []string{"1.2.3.5\tn"} }),
		},
		{name: "a host name", second: option(func(o *builder.Options) { o.Sandbox.Hostname = "h" }), want: "BLM", cut: true},
		{name: "a limit of the kernel's", second: option(func(o *builder.Options) { o.Sandbox.Ulimits = []runner.Ulimit{{Name: "nofile", Soft: 99, Hard: 99}} }), want: "BLM", cut: true},
		{name: "a limit of memory", second: option(func(o *builder.Options) { o.Sandbox.Limits.Memory = 1 << 30 })},
		{name: "a stage run anew", second: option(func(o *builder.Options) { o.FreshStages = []string{"build"} }), want: "BMSW", cut: true},
		{name: "a network for all", second: option(func(o *builder.Options) { o.Sandbox.Network = "none" }), want: "BLM", cut: true, namespaces: true},
	}
}
