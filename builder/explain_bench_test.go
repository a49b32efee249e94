package builder_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// BenchmarkExplaining builds 500 steps that all miss, with and without the records that say why. Compare cpu-ms/op: what a step
// itself takes here is next to nothing.
func BenchmarkExplaining(b *testing.B) {
	const steps, stages = 500, 10
	for _, c := range []struct {
		name string
		with bool
	}{{"off", false}, {"on", true}} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b)
			if !c.with {
				w.Records = nil
			}
			var t strings.Builder
			for i := range stages {
				fmt.Fprintf(&t, "FROM scratch AS s%d\nARG V\n", i)
				for k := range steps / stages {
					fmt.Fprintf(&t, "RUN [\"env\",\"f%d\",\"V\"]\n", k)
				}
			}
			t.WriteString("FROM scratch\n")
			for i := range stages {
				fmt.Fprintf(&t, "COPY --from=s%d /f0 /f%d\n", i, i)
			}
			_, err := w.build(t.String(), arg("V", "first"))
			if err != nil {
				b.Fatal(err)
			}
			var before, after syscall.Rusage
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
			for i := range b.N {
				if _, err := w.build(t.String(), arg("V", fmt.Sprint(i))); err != nil {
					b.Fatal(err)
				}
			}
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
			cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(cpu)/1e6/float64(b.N), "cpu-ms/op")
			if c.with && len(w.misses()) == 0 {
				b.Error("nothing was explained")
			}
		})
	}
}
