package s3

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// The examples of "Signature Calculations for the Authorization Header" in the Amazon S3 API Reference.
func TestSignaturesOfTheReference(t *testing.T) {
	c := Credentials{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
	now := time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name, method, url string
		header            map[string]string
		sum, want         string
	}{
		{
			"get object", "GET", "https://examplebucket.s3.amazonaws.com/test.txt",
			map[string]string{"Range": "bytes=0-9"},
			emptySum, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
		},
		{
			"get bucket lifecycle", "GET", "https://examplebucket.s3.amazonaws.com/?lifecycle",
			nil, emptySum, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
		},
		{
			"list objects", "GET", "https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J",
			nil, emptySum, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := http.NewRequest(tt.method, tt.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			for k, v := range tt.header {
				r.Header.Set(k, v)
			}
			c.sign(r, "us-east-1", tt.sum, now)
			if got := r.Header.Get("Authorization"); !strings.HasSuffix(got, "Signature="+tt.want) {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"/blobs/sha256:ab": "/blobs/sha256%3Aab", "a b+c": "a%20b%2Bc", "ü~": "%C3%BC~", "%": "%25",
	} {
		if got := escape(in, true); got != want {
			t.Errorf("%q: %q, not %q", in, got, want)
		}
	}
	if got := escape("a/b", false); got != "a%2Fb" {
		t.Errorf("got %q", got)
	}
}
