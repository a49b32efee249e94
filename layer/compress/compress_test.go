package compress

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ulikunitz/xz"
)

// sample is size bytes that compress somewhat.
func sample(size int) []byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 3000)
	for i := range words {
		words[i] = fmt.Sprintf("%x ", rnd.Uint64()>>rnd.IntN(60))
	}
	var b bytes.Buffer
	for b.Len() < size {
		b.WriteString(words[rnd.IntN(len(words))])
	}
	return b.Bytes()[:size]
}

func pack(t testing.TB, a Algorithm, data []byte, cores, chunk int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := a.Encoder().newWriter(&b, cores)
	if err != nil {
		t.Fatal(err)
	}
	for len(data) > 0 {
		n := min(chunk, len(data))
		if _, err := w.Write(data[:n]); err != nil {
			t.Fatal(err)
		}
		data = data[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpack(t testing.TB, b []byte) ([]byte, Algorithm) {
	t.Helper()
	r, a, err := NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return data, a
}

func TestRoundTrip(t *testing.T) {
	for _, a := range []Algorithm{None, Gzip, Zstd} {
		for _, size := range []int{0, 1, 100, 1 << 20, 5<<20 + 7} {
			data := sample(size)
			got, detected := unpack(t, pack(t, a, data, 2, 100000))
			if !bytes.Equal(got, data) {
				t.Errorf("%s, %d bytes: other bytes come back", a, size)
			}
			if detected != a {
				t.Errorf("%s, %d bytes: detected as %s", a, size, detected)
			}
		}
	}
}

func TestSameBytesOnAnyMachine(t *testing.T) {
	data := sample(3<<20 + 5)
	for _, c := range []struct {
		a    Algorithm
		want string // of klauspostVersion and pgzipVersion
	}{{Gzip, "b9fc6d1989ff0b6ad48b83725c70ce48a73d3de3fdf7e546f4c512b467d12164"}, {Zstd, "e404074224eede36d049955e391a36392c9d1374eed75eadcdeafb07ae17693d"}} {
		first := sha256.Sum256(pack(t, c.a, data, 1, len(data)))
		if got := fmt.Sprintf("%x", first); got != c.want {
			t.Errorf("%s: the output is %s, with %s it was %s", c.a, got, c.a.Encoder().Version(), c.want)
		}
		for _, cores := range []int{2, 3, 8} {
			if sha256.Sum256(pack(t, c.a, data, cores, 1<<(4*cores)%50001+999)) != first {
				t.Errorf("%s: other bytes on %d cores", c.a, cores)
			}
		}
	}
	if h := pack(t, Gzip, nil, 1, 1)[:10]; !bytes.Equal(h, []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}) {
		t.Errorf("the header of gzip holds a time or a name: %x", h)
	}
}

func TestVersionNamesLinkedLibraries(t *testing.T) {
	// A test binary does not carry its modules' versions (runtime/debug), go.mod does.
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for path, version := range map[string]string{"github.com/klauspost/compress": klauspostVersion, "github.com/klauspost/pgzip": pgzipVersion} {
		if !strings.Contains(string(mod), "\t"+path+" "+version+"\n") {
			t.Errorf("another version of %s is linked than %s; its output may differ", path, version)
		}
	}
	if gz := Gzip.Encoder().Version(); gz == Zstd.Encoder().Version() || !strings.Contains(gz, klauspostVersion) || XZ.Encoder().Version() != "" {
		t.Error(gz, Zstd.Encoder().Version())
	}
}

func TestDetect(t *testing.T) {
	for begin, want := range map[string]Algorithm{
		"": None, "BZh": None, "BZhello world": None, "BZh91AY&SY": Bzip2, "BZh1\x17rE8P\x90": Bzip2, "\x1f\x8b": None, "\x1f\x8b\x08": Gzip,
		"\x1f\x8b\x07": None, "\x28\xb5\x2f\xfd": Zstd, "\x50\x2a\x4d\x18": Zstd, "\x5f\x2a\x4d\x18": Zstd, "\xfd7zXZ\x00": XZ, "\x5d\x00\x00\x80": None,
	} {
		if got := Detect([]byte(begin)); got != want {
			t.Errorf("Detect(%q) = %s, want %s", begin, got, want)
		}
	}
}

// pipe runs a command of the system, if it is there.
func pipe(t testing.TB, in []byte, cmd ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(cmd[0]); err != nil {
		if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	c := exec.Command(cmd[0], cmd[1:]...)
	c.Stdin = bytes.NewReader(in)
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestOthersFiles(t *testing.T) {
	data := sample(300 << 10)
	for _, c := range []struct {
		cmd  string
		want Algorithm
	}{
		{"gzip -c", Gzip}, {"bzip2 -c", Bzip2}, {"xz -c", XZ}, {"xz -c -e", XZ}, {"xz -c --check=sha256 --block-size=100000", XZ}, {"xz -c --check=none -0", XZ}, {"zstd -c --long=27", Zstd},
	} {
		t.Run(c.cmd, func(t *testing.T) {
			packed := pipe(t, data, strings.Fields(c.cmd)...)
			if got, a := unpack(t, packed); a != c.want || !bytes.Equal(got, data) {
				t.Errorf("%s: other bytes, detected as %s", c.cmd, a)
			}
			if c.want != Zstd && c.cmd != "xz -c" { // two streams after each other are one file
				if got, _ := unpack(t, append(packed, packed...)); !bytes.Equal(got, append(data, data...)) {
					t.Errorf("%s: the second stream is lost", c.cmd)
				}
			}
		})
	}
	t.Run("incompressible", func(t *testing.T) {
		noise := make([]byte, 300<<10)
		for i := range noise {
			noise[i] = byte(rand.Uint32())
		}
		if got, _ := unpack(t, pipe(t, noise, "xz", "-c")); !bytes.Equal(got, noise) {
			t.Error("other bytes")
		}
	})
}

func TestXZDictionaryLimit(t *testing.T) {
	for _, first := range []bool{true, false} {
		var b bytes.Buffer
		if !first { // a harmless stream before
			w, err := xz.NewWriter(&b)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = w.Write(sample(100000))
			_ = w.Close()
		}
		w, err := xz.WriterConfig{DictCap: 1 << 20}.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		at := b.Len() // of the block header: 12 bytes of stream header were written
		_, _ = w.Write([]byte("hello"))
		_ = w.Close()
		packed := b.Bytes()
		// size, flags, id 0x21, size 1, dictionary bits
		i := bytes.Index(packed[at-13:], []byte{0x21, 1})
		packed[at-13+i+2] = 38 // 1 GiB
		r, _, err := NewReader(bytes.NewReader(packed))
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			r.Close()
		}
		if !errors.Is(err, errXZDict) {
			t.Errorf("first %v: %v", first, err)
		}
	}
}

func TestTruncated(t *testing.T) {
	data := sample(300000)
	for _, a := range []Algorithm{Gzip, Zstd} {
		b := pack(t, a, data, 2, len(data))
		for _, n := range []int{len(b) - 1, len(b) / 2, 12} {
			r, _, err := NewReader(bytes.NewReader(b[:n]))
			if err == nil {
				_, err = io.Copy(io.Discard, r)
				r.Close()
			}
			if err == nil {
				t.Errorf("%s cut to %d of %d bytes: no error", a, n, len(b))
			}
		}
	}
}

type failing struct{ after int }

var errDisk = errors.New("disk full")

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, errDisk
	}
	return len(p), nil
}

func TestNothingRuns(t *testing.T) {
	before := runtime.NumGoroutine()
	data := sample(4 << 20)
	for _, a := range []Algorithm{Gzip, Zstd} {
		for _, after := range []int{0, 100, 1 << 20} {
			w, err := a.Encoder().newWriter(&failing{after}, 4)
			if err != nil {
				t.Fatal(err)
			}
			_, err = w.Write(data)
			if cerr := w.Close(); err == nil {
				err = cerr
			}
			if !errors.Is(err, errDisk) {
				t.Errorf("%s: %v", a, err)
			}
		}
		r, _, err := NewReader(bytes.NewReader(pack(t, a, data, 4, 1<<20)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, r, 1000); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	for range 3000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines are left", runtime.NumGoroutine()-before)
}

func TestOnlyRead(t *testing.T) {
	for _, a := range []Algorithm{Bzip2, XZ, "lz4"} {
		if _, err := a.Encoder().NewWriter(io.Discard); err == nil {
			t.Errorf("%s can be written", a)
		}
	}
}

func BenchmarkGzip(b *testing.B) { benchmark(b, Gzip) }
func BenchmarkZstd(b *testing.B) { benchmark(b, Zstd) }

func benchmark(b *testing.B, a Algorithm) {
	data := sample(32 << 20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		w, err := a.Encoder().NewWriter(io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			b.Fatal(err)
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzReader(f *testing.F) {
	data := sample(3000)
	f.Add(data)
	f.Add(pack(f, Gzip, data, 1, 3000))
	f.Add(pack(f, Zstd, data, 1, 3000))
	f.Add([]byte("BZh91AY&SY\x00\x00"))
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		f.Fatal(err)
	}
	_, _ = w.Write(data)
	_ = w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, a, err := NewReader(bytes.NewReader(b))
		if err != nil {
			return
		}
		n, err := io.Copy(io.Discard, io.LimitReader(r, 16<<20))
		if a == None && (err != nil || n != int64(len(b))) {
			t.Errorf("%d of %d bytes passed through: %v", n, len(b), err)
		}
		r.Close()
	})
}

func TestLevels(t *testing.T) {
	data := sample(1 << 20)
	level := func(n int) *int { return &n }
	size := func(e Encoder) int {
		var b bytes.Buffer
		w, err := e.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(data)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		if got, _ := unpack(t, b.Bytes()); !bytes.Equal(got, data) {
			t.Errorf("%+v: other bytes come back", e)
		}
		return b.Len()
	}
	for _, a := range []Algorithm{Gzip, Zstd} {
		few, many := Encoder{a, level(1)}, Encoder{a, level(9)}
		if few.Version() == many.Version() || few.Version() == a.Encoder().Version() {
			t.Errorf("%s: one version for several levels", a)
		}
		if f, m := size(few), size(many); f <= m {
			t.Errorf("%s: %d bytes with level 1, %d with 9", a, f, m)
		}
	}
	if (Encoder{Gzip, level(gzipLevel)}).Version() != Gzip.Encoder().Version() || (Encoder{Zstd, level(3)}).Version() != Zstd.Encoder().Version() {
		t.Error("strake's own level, when it is named, is another one")
	}
	if n := size(Encoder{Gzip, level(0)}); n < len(data) {
		t.Errorf("level 0 compresses to %d bytes", n)
	}
	for _, e := range []Encoder{{Gzip, level(10)}, {Gzip, level(-1)}, {Zstd, level(23)}, {None, level(1)}, {XZ, nil}} {
		if e.Check() == nil {
			t.Errorf("%+v is accepted", e)
		}
	}
}
