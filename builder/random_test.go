package builder_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder"
)

// random makes Dockerfiles, and changes them and their context.
type random struct {
	*rand.Rand
	w      *world
	runs   bool // commands can be run
	stages []stage
	value  string // of the argument V
}

type stage struct {
	base  string
	steps []string
}

func newRandom(seed uint64, w *world) *random {
	r := &random{Rand: rand.New(rand.NewPCG(seed, 0)), w: w, runs: w.NoRun == nil, value: "0"}
	w.images["base"] = w.testImage("1")
	for _, f := range []string{"src/keep", "src/a", "src/b.t", "src/d/c", "contexts/given/g"} {
		w.write(f, "0")
	}
	archive("f", "0", 5)(w)
	for n := range 1 + r.IntN(3) {
		s := stage{base: "base"}
		if n > 0 && r.IntN(3) == 0 {
			s.base = fmt.Sprint("s", r.IntN(n))
		}
		for range 2 + r.IntN(6) {
			s.steps = append(s.steps, r.step(n))
		}
		r.stages = append(r.stages, s)
	}
	return r
}

func (r *random) pick(list ...string) string { return list[r.IntN(len(list))] }

// maybe is one of the texts, or none.
func (r *random) maybe(list ...string) string {
	if r.IntN(3) > 0 {
		return ""
	}
	return r.pick(list...) + " "
}

// look writes down all that is to be seen of the files in some folders.
const look = `find %s 2>/dev/null -exec stat -c "%%n %%a %%u %%g %%F" {} + -type l -exec readlink {} + -o -type f -exec busybox md5sum {} + | sort >/%s%d`

// step is a random instruction of the stage n.
func (r *random) step(n int) string {
	kinds := []func(n int) string{r.setting, r.copy, r.add, r.fromStage}
	if r.runs {
		kinds = append(kinds, r.run, r.run, r.runMount, r.change)
	}
	return kinds[r.IntN(len(kinds))](n)
}

// setting is an instruction that touches no file, but for WORKDIR.
func (r *random) setting(int) string {
	return r.pick("ENV E="+r.pick("1", "2", "$V"), "ARG V", "ARG V=9", "WORKDIR /"+r.pick("w", "v", "x/w"), "WORKDIR $E", "USER "+r.pick("0", "0:1"),
		`SHELL ["/bin/`+r.pick(`sh", "-c`, `busybox", "sh", "-c`)+`"]`, "LABEL l="+r.pick("1", "2"))
}

// copy is a COPY from a context.
func (r *random) copy(int) string {
	flags := r.maybe("--link") + r.maybe("--chmod="+r.pick("600", "755", "u=rwX,go=")) + r.maybe("--chown=1:2") + r.maybe("--exclude=*.t", "--exclude=d", "--exclude=**/c")
	return "COPY " + flags + r.pick("src/ /x/", "src/ /x/", "--parents src/d src/keep /p/", "src/[ab]* src/keep /f/", "src/d* src/keep /f/", "src/keep /x/"+r.pick("keep", "$E"), ". /s/",
		"--from=given / /g/")
}

// add is an ADD of an archive, or files of a document.
func (r *random) add(int) string {
	return r.pick("ADD "+r.maybe("--chown=3:4", "--link", "--unpack=false")+"pack.tar /"+r.pick("p/", "f/"), "COPY <<E <<F /x/\n$V\nE\n2\nF", "COPY "+r.maybe("--chmod=600")+"<<\"E\" /h\n$V "+r.pick("1", "2")+"\nE")
}

// fromStage is a COPY from an earlier stage, or the file that it has always.
func (r *random) fromStage(n int) string {
	if n == 0 {
		return "COPY src/keep /s/"
	}
	return fmt.Sprintf("COPY %s--from=s%d %s /from%d/", r.maybe("--link", "--chown=5:6"), r.IntN(n), r.pick("/s/", "/s/* /s/keep", "/s/keep /s/s*", "/s"), r.IntN(2))
}

// run is a RUN that says what it finds.
func (r *random) run(int) string {
	i := r.IntN(2)
	return "RUN " + r.pick(fmt.Sprintf(look, "/x /f /s /p", "l", i), fmt.Sprintf(look, "/from0 /from1 /g /w /v /h", "l", i), fmt.Sprintf("echo $E $V $PWD >/e%d", i), fmt.Sprintf("<<E\necho $E >/e%d\necho %d >>/e%d\nE", i, r.IntN(3), i))
}

// runMount is a RUN that says what it finds mounted.
func (r *random) runMount(n int) string {
	i := r.IntN(2)
	mount := r.pick("type=bind,source=src", "type=bind,from=given,rw", "type=tmpfs", "type=cache", "type=bind,source=src/keep")
	if n > 0 && r.IntN(3) == 0 {
		mount = fmt.Sprintf("type=bind,from=s%d,source=/s", r.IntN(n))
	}
	return fmt.Sprintf("RUN --mount=%s,target=/m "+look, mount, "/m", "m", i)
}

// change is a RUN that changes files.
func (r *random) change(int) string {
	return "RUN " + r.pick("rm -rf /x/a /f/b.t", "rm -rf /x", "ln -f /x/keep /x/second", "ln -f /s/keep /s/second", "cp /s/keep /s/second", "ln -sf keep /s/s", "ln -sfn d /x/link",
		"chmod -R go-r /x", "chown 7:8 /s/keep", "mv /x/d /s/", "mkdir -p /x/a /s", "echo "+r.pick("1", "2")+" >>/x/keep", "cp -a /x /s/") + " 2>/dev/null; true"
}

func (r *random) text() string {
	var b strings.Builder
	for n, s := range r.stages {
		fmt.Fprintf(&b, "FROM %s AS s%d\nCOPY src/keep /s/\n%s\n", s.base, n, strings.Join(s.steps, "\n"))
	}
	return b.String()
}

// options are what the builds until the next edit have in common.
func (r *random) options() []change {
	all := []change{arg("V", r.value)}
	if r.IntN(4) == 0 {
		target := fmt.Sprint("s", r.IntN(len(r.stages)))
		all = append(all, func(o *builder.Options) { o.Settings.Target = target })
	}
	return all
}

// edit changes something.
func (r *random) edit() string {
	n := r.IntN(len(r.stages))
	s := &r.stages[n]
	at := r.IntN(len(s.steps))
	switch r.IntN(12) {
	case 0:
		r.value = fmt.Sprint(r.IntN(3))
		return "V is " + r.value
	case 1:
		s.steps = append(s.steps[:at:at], append([]string{r.step(n)}, s.steps[at:]...)...)
		return "a step more"
	case 2:
		if len(s.steps) > 1 {
			s.steps = append(s.steps[:at:at], s.steps[at+1:]...)
		}
		return "a step less"
	case 3:
		s.steps[at] = r.step(n)
		return "another step"
	case 4:
		r.w.images["base"] = r.w.testImage(r.pick("1", "2"))
		return "another base"
	case 5:
		rules := r.pick("", "src/a\n", "**/*.t\n", "src/d\n!src/d/c\n", "*\n!src\n!contexts\n!pack.tar\n", "# nothing\n")
		r.w.write(".dockerignore", rules)
		return "ignored " + rules
	case 6:
		text, sec := r.pick("0", "1"), int64(r.IntN(2))
		archive("f", text, sec)(r.w)
		return "an archive"
	default:
		return r.editFile()
	}
}

// editFile changes a file. What comes of one that cannot be is nothing.
func (r *random) editFile() string {
	name, other := "src/"+r.pick("a", "b.t", "d", "d/c", "d/e", "x"), "src/"+r.pick("a", "b.t", "d/c", "d/n")
	path, second := r.w.path(name), r.w.path(other)
	var err error
	what := r.pick("wrote", "wrote", "removed", "renamed", "mode", "symlink", "link", "folder", "capability", "time", "context")
	switch what {
	case "wrote":
		_ = os.Remove(path)
		err = os.WriteFile(path, []byte(fmt.Sprint(r.IntN(3))), 0o644)
	case "removed":
		err = os.RemoveAll(path)
	case "renamed":
		err = os.Rename(path, second)
	case "mode":
		err = os.Chmod(path, os.FileMode(0o700|r.IntN(0o100)))
	case "symlink":
		_ = os.Remove(path)
		err = os.Symlink(r.pick("keep", "d", "nowhere", "/"), path)
	case "link":
		_ = os.Remove(second)
		err = os.Link(path, second)
	case "folder":
		_ = os.RemoveAll(path)
		err = os.MkdirAll(filepath.Join(path, "empty"), 0o755)
	case "capability":
		const revision2 = "\x01\x00\x00\x02" // of VFS_CAP_REVISION_2, effective; see capabilities(7)
		err = unix.Lsetxattr(path, "security.capability", []byte(revision2+r.pick("\x01", "\x02")+strings.Repeat("\x00", 15)), 0)
	case "time":
		err = unix.Utimes(path, []unix.Timeval{{Sec: 5}, {Sec: int64(r.IntN(9))}})
	default:
		r.w.write("contexts/given/"+r.pick("g", "n"), r.pick("0", "1"))
	}
	return fmt.Sprintf("%s %s (%s): %v", what, name, other, err)
}
