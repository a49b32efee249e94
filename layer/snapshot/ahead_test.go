package snapshot

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// TestReadAhead reads the same bytes and error through it, in whatever pieces they come.
func TestReadAhead(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	broken := errors.New("broken")
	for _, size := range []int{0, 1, aheadBlock - 1, aheadBlock, aheadBlock + 1, 11*aheadBlock + 5} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(rnd.Uint32())
		}
		for name, r := range map[string]io.Reader{
			"whole": bytes.NewReader(data), "halves": iotest.HalfReader(bytes.NewReader(data)), "with the end": iotest.DataErrReader(bytes.NewReader(data)),
		} {
			a := readAhead(io.MultiReader(r, iotest.ErrReader(broken)))
			got, err := io.ReadAll(iotest.HalfReader(a))
			if !bytes.Equal(got, data) || !errors.Is(err, broken) {
				t.Errorf("%d bytes, %s: %d bytes, %v", size, name, len(got), err)
			}
			if _, err := a.Read(make([]byte, 1)); !errors.Is(err, broken) {
				t.Errorf("%d bytes, %s: the error is not there to stay: %v", size, name, err)
			}
			a.close()
		}
	}
}

// endless gives zeros, and counts who reads them.
type endless struct{ reading int }

func (e *endless) Read(p []byte) (int, error) {
	e.reading++
	clear(p)
	return len(p), nil
}

// TestReadAheadStops closes it in the middle: afterwards nothing reads any more (the race detector sees it).
func TestReadAheadStops(t *testing.T) {
	for i := range 50 {
		e := &endless{}
		a := readAhead(e)
		if _, err := io.CopyN(io.Discard, a, int64(i)*100_000); err != nil {
			t.Fatal(err)
		}
		a.close()
		if e.reading++; e.reading > 100 {
			t.Errorf("%d reads", e.reading)
		}
	}
}
