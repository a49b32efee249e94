package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// StatusError is an answer of a registry or of its token server that tells of a failure. Neither queries of URLs,
// which hold signatures, nor credentials get into it.
type StatusError struct {
	Host    string // as the reference names it
	Method  string
	Path    string
	Status  int    // HTTP status code
	Code    string // first error code of the distribution specification, such as NAME_UNKNOWN; may be empty
	Message string // first error message, or the beginning of a body that is not JSON; may be empty

	after  time.Duration // Retry-After
	anon   bool          // asked without credentials
	source string        // where the credentials came from
}

// Error tells the status, the code and the registry's own message.
func (e *StatusError) Error() string {
	s := fmt.Sprintf("%s answers %s %s with %d %s", display(e.Host), e.Method, e.Path, e.Status, http.StatusText(e.Status))
	if e.Code != "" {
		s += ": " + e.Code
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// Is makes 401 and 403 an ErrUnauthorized and 404 an ErrNotFound.
func (e *StatusError) Is(target error) bool {
	switch target {
	case ErrUnauthorized:
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
	case ErrNotFound:
		return e.Status == http.StatusNotFound
	}
	return false
}

// maxErrorBody bounds what is read of an answer that is an error.
const maxErrorBody = 16 << 10

// newStatusError makes an error of an answer whose body was read; secrets are blotted out of what the server wrote.
func newStatusError(host string, resp *http.Response, body []byte, secrets []string) *StatusError {
	e := &StatusError{Host: host, Status: resp.StatusCode, after: retryAfter(resp.Header)}
	if resp.Request != nil {
		e.Method, e.Path = resp.Request.Method, resp.Request.URL.Path
	}
	var parsed struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
		Details string `json:"details"` // of token servers
		Error   any    `json:"error"`
	}
	if json.Unmarshal(body, &parsed) == nil {
		if len(parsed.Errors) > 0 {
			e.Code, e.Message = parsed.Errors[0].Code, parsed.Errors[0].Message
		} else if s, ok := parsed.Error.(string); ok {
			e.Message = s
		} else {
			e.Message = parsed.Details
		}
	} else if !bytes.Contains(body[:min(len(body), 512)], []byte("<html")) {
		e.Message = string(body)
	}
	e.Code = blot(printable(e.Code, 64), secrets)
	e.Message = blot(printable(e.Message, 300), secrets)
	return e
}

// printable makes one line of foreign text, without control characters and at most n bytes of it.
func printable(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}

// blot replaces secrets in foreign text.
func blot(s string, secrets []string) string {
	for _, secret := range secrets {
		if len(secret) > 2 {
			s = strings.ReplaceAll(s, secret, "***")
		}
	}
	return s
}

// transportError cleans an error of net/http: URLs lose their query, and what a user can change is named.
func (c *Client) transportError(ctx context.Context, host string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return because(host, cause)
	}
	var ue *url.Error
	where := display(host)
	if errors.As(err, &ue) {
		if u, perr := url.Parse(ue.URL); perr == nil && u.Host != "" {
			where = display(u.Host)
		}
		err = ue.Err
	}
	var header tls.RecordHeaderError
	switch {
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &header):
		return fmt.Errorf("%s speaks plain HTTP, not HTTPS: if that is meant, allow it with --insecure-registry %s: %w", where, where, err)
	case isCertificateError(err):
		return fmt.Errorf("the certificate of %s is not trusted: if its authority is your own, give it with --registry-ca FILE or put it into certs.d/%s/ca.crt: %w", where, where, err)
	}
	return &connError{"talking to " + where, err}
}

// because names the host when a deadline of this package's own ended a request; a cancelled context explains itself.
func because(host string, cause error) error {
	if errors.Is(cause, errSlow) || errors.Is(cause, errStalled) {
		return &connError{"talking to " + display(host), cause}
	}
	return cause
}

// isCertificateError tells a refused certificate from a connection that failed.
func isCertificateError(err error) bool {
	var verify *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var hostname x509.HostnameError
	return errors.As(err, &verify) || errors.As(err, &authority) || errors.As(err, &invalid) || errors.As(err, &hostname)
}

// explain wraps a failure with what the user can do about it. The caller names the reference or repository at stake.
func (c *Client) explain(err error) error {
	var e *StatusError
	if !errors.As(err, &e) {
		return err
	}
	login := "strake login " + display(e.Host)
	switch {
	case e.Status == http.StatusUnauthorized && e.anon:
		hint := ""
		if note := c.keys.note(e.Host); note != "" {
			hint = "; " + note
		}
		return fmt.Errorf("it does not exist or needs a login (%s)%s: %w", login, hint, err)
	case e.Status == http.StatusUnauthorized:
		return fmt.Errorf("it does not exist, or %s refuses the credentials in %s (%s): %w", display(e.Host), e.source, login, err)
	case e.Status == http.StatusForbidden && e.anon:
		return fmt.Errorf("it may not be accessed without a login (%s): %w", login, err)
	case e.Status == http.StatusForbidden:
		return fmt.Errorf("it may not be accessed with the credentials in %s (%s): %w", e.source, login, err)
	case e.Status == http.StatusNotFound:
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case e.Status == http.StatusTooManyRequests:
		return fmt.Errorf("%s limits the rate of requests: %w", display(e.Host), err)
	}
	return err
}
