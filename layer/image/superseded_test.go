package image_test

import (
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestSuperseded(t *testing.T) {
	s, _, _ := newStore(t)
	want := func(what string, want ...v1.Hash) {
		t.Helper()
		got, err := s.Superseded()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: superseded are %v, want %v", what, got, want)
		}
	}
	first, second := newImage(t, "first", 1), newImage(t, "second", 2)
	a, b := put(t, s, first), put(t, s, second)
	want("nameless images")
	tag(t, s, "x", a)
	tag(t, s, "y", a)
	tag(t, s, "x", a)
	tag(t, s, "x", b)
	want("an image with another name")
	tag(t, s, "y", b)
	want("an image that lost both names", a)
	put(t, s, first)
	want("an image that was stored again")
	tag(t, s, "x", a)
	tag(t, s, "x", b)
	want("an image that lost its name again", a)
	if err := s.Forget(a); err != nil {
		t.Fatal(err)
	}
	want("an image that is gone")
}
