package bazel

import (
	"testing"

	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/cache/remote/remotetest"
)

func FuzzDecodeResult(f *testing.F) {
	_, d := remotetest.Blob(f, 1, 10)
	raw, err := encodeResult(remotetest.Entry("a", d))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte("\x28\x01\x31........\x35....\x2a\x02{}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := decodeResult(raw)
		if err != nil {
			return
		}
		if err := e.Check(); err != nil {
			t.Error(err)
		}
		again, err := encodeResult(e)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeResult(again); err != nil || got.Key != e.Key {
			t.Errorf("comes back as %+v, %v", got, err)
		}
	})
}

// The reader does not take an ActionResult that says several things.
func TestSeveralEntries(t *testing.T) {
	_, d := remotetest.Blob(t, 1, 10)
	doc, err := remote.EncodeEntries([]remote.Held{{Entry: remotetest.Entry("a", d)}, {Entry: remotetest.Entry("b", d)}})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := decodeResult(appendBytes(nil, resultStdout, doc)); err == nil {
		t.Errorf("got %+v", e)
	}
}
