package s3

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Credentials are an access key of AWS or of a server that works like it.
type Credentials struct {
	AccessKeyID, SecretAccessKey string
	SessionToken                 string // of temporary ones
}

// emptySum is the sha256 of nothing.
const emptySum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

const timeFormat = "20060102T150405Z"

// sign completes a request with the headers of Signature Version 4 ("Authenticating Requests: Using the Authorization
// Header", Amazon S3 API Reference). bodySum is the sha256 of the body, in hexadecimal. The path must be escaped as
// escape does.
func (c Credentials) sign(r *http.Request, region, bodySum string, now time.Time) {
	now = now.UTC()
	r.Header.Set("X-Amz-Date", now.Format(timeFormat))
	r.Header.Set("X-Amz-Content-Sha256", bodySum)
	if c.AccessKeyID == "" {
		return // anonymous
	}
	if c.SessionToken != "" {
		r.Header.Set("X-Amz-Security-Token", c.SessionToken)
	}
	names, headers := canonicalHeaders(r)
	request := strings.Join([]string{r.Method, r.URL.EscapedPath(), canonicalQuery(r.URL.Query()), headers, names, bodySum}, "\n")
	scope := now.Format("20060102") + "/" + region + "/s3/aws4_request"
	sum := sha256.Sum256([]byte(request))
	toSign := strings.Join([]string{"AWS4-HMAC-SHA256", now.Format(timeFormat), scope, hex.EncodeToString(sum[:])}, "\n")
	key := []byte("AWS4" + c.SecretAccessKey)
	for part := range strings.SplitSeq(scope, "/") {
		key = mac(key, part)
	}
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+c.AccessKeyID+"/"+scope+",SignedHeaders="+names+
		",Signature="+hex.EncodeToString(mac(key, toSign)))
}

func mac(key []byte, data string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(data))
	return h.Sum(nil)
}

// canonicalHeaders lists the headers that are signed: the host, and all that say something of the request.
func canonicalHeaders(r *http.Request) (names, lines string) {
	values := map[string]string{"host": r.URL.Host}
	for k, v := range r.Header {
		k = strings.ToLower(k)
		if strings.HasPrefix(k, "x-amz-") || k == "content-type" || k == "range" || k == "content-md5" {
			values[k] = strings.Join(strings.Fields(strings.Join(v, ",")), " ")
		}
	}
	var list []string
	for k := range values {
		list = append(list, k)
	}
	slices.Sort(list)
	for _, k := range list {
		lines += k + ":" + values[k] + "\n"
	}
	return strings.Join(list, ";"), lines
}

func canonicalQuery(q url.Values) string {
	var list []string
	for k, values := range q {
		for _, v := range values {
			list = append(list, escape(k, false)+"="+escape(v, false))
		}
	}
	slices.Sort(list)
	return strings.Join(list, "&")
}

// escape is UriEncode of the same document: all but letters, digits and "-._~" in percents, "/" too unless it is a path.
func escape(s string, path bool) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0 || c == '/' && path {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteString(strings.ToUpper(hex.EncodeToString([]byte{c})))
	}
	return b.String()
}
