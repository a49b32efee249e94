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
	return slices.Concat(fileScenarios(), metadataScenarios(), stepScenarios(), argumentScenarios(), otherScenarios())
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
		{name: "a second name for a file of the same content", edit: do(func(w *world) error {
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
		{name: "a document", text: "FROM base\nCOPY <<E /h\n1\nE\n", replace: []string{"\n1\n", "\n2\n"}, want: "H"},
		{name: "a document's name", text: "FROM base\nCOPY <<E /h\n1\nE\n", replace: []string{"E", "F", "FROM bASF", "FROM base", "COPY <<F", "COPY <<F"}, want: "H"},
		{name: "a pattern that matches a new file", text: "FROM base\nCOPY src/*.go /s/\n", edit: file("src/n.go", ""), want: "S"},
		{name: "a pattern that does not", text: "FROM base\nCOPY src/*.go /s/\n", edit: file("src/n.txt", "")},
		{name: "a file left out", text: "FROM base\nCOPY --exclude=*.txt src/ /s/\n", edit: file("src/b.txt", "2")},
		{name: "a file not left out", text: "FROM base\nCOPY --exclude=*.txt src/ /s/\n", edit: file("src/a.go", "2"), want: "S"},
		{name: "a linked copy on another base", inline: "S", text: "FROM base\nCOPY --link src/ /s/\n", replace: []string{"FROM base", "FROM other"}},
	}
}

func argumentScenarios() []scenario {
	return []scenario{
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

func otherScenarios() []scenario {
	return []scenario{
		{name: "a base of the same files with other variables", edit: func(w *world) { w.images["base"] = w.testImage("2") }, want: "BLM", cut: true},
		{name: "the same base by another name", replace: []string{"FROM base AS", "FROM same AS", "FROM base\n", "FROM same\n"}},
		{name: "another base of one stage", replace: []string{"FROM base\n", "FROM other\n"}, want: "L", cut: true},
		{name: "a base with another configuration of what steps do not see", inline: "ABLMSTW", edit: func(w *world) {
			img := *w.testImage("1")
			img.ID.Hex, img.Config.Author = strings.Repeat("3", 64), "x"
			w.images["base"] = &img
		}},
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
