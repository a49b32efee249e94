package builder_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// Stages on each other share what they have in common: thousands take no more memory than their text asks for.
func TestStagesOnStages(t *testing.T) {
	const stages = 3000
	var text strings.Builder
	text.WriteString("FROM scratch AS s0\n")
	for i := 1; i < stages; i++ {
		fmt.Fprintf(&text, "FROM s%d AS s%d\nENV A=%d\n", i-1, i, i)
	}
	w := newWorld(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	img, err := w.build(text.String())
	must(t, err)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 200<<20 {
		t.Errorf("the build allocated %d MiB", used>>20)
	}
	if h := img.Config.History; len(h) != stages-1 || h[0].CreatedBy != "ENV A=1" || h[stages-2].CreatedBy != fmt.Sprintf("ENV A=%d", stages-1) {
		t.Errorf("the history has %d entries, from %v to %v", len(h), h[0], h[len(h)-1])
	}
}
