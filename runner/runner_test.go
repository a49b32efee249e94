package runner

import (
	"slices"
	"testing"
)

func TestJoinEnv(t *testing.T) {
	got := JoinEnv([]string{"A=1", "B=2", "A=3"}, nil, []string{"C=4", "B=", "D"})
	if want := []string{"A=3", "B=", "C=4", "D"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
