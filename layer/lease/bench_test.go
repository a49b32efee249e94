package lease_test

import (
	"fmt"
	"testing"
)

// What a cached build pays for each layer that it finds.
func BenchmarkHold(b *testing.B) {
	l := open(b, b.TempDir())
	i := 0
	for b.Loop() {
		use(b, l, fmt.Sprintf("%016d", i))
		i++
	}
}
