package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"
)

var (
	errStalled = errors.New("no byte came for too long")
	errSlow    = errors.New("no answer in time")
)

// longestWait is the longest Retry-After that is waited for.
const longestWait = 5 * time.Minute

// retryAfter reads the header of the same name: seconds, or a date, which is compared with the server's own clock.
// It is negative when the server does not ask for a wait.
func retryAfter(h http.Header) time.Duration {
	s := h.Get("Retry-After")
	if n, err := strconv.ParseInt(s, 10, 32); err == nil && n >= 0 {
		return time.Duration(n) * time.Second
	}
	until, err := http.ParseTime(s)
	if err != nil {
		return -1
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return -1
	}
	return max(0, until.Sub(now))
}

// retryable tells whether the same request may succeed later.
func retryable(err error) bool {
	var local *finalError
	var status *StatusError
	var expired *expiredError
	var dns *net.DNSError
	var conn *connError
	switch {
	case errors.As(err, &local), isCertificateError(err), errors.Is(err, http.ErrSchemeMismatch):
		return false
	case errors.As(err, &expired), errors.Is(err, errStalled), errors.Is(err, errSlow), errors.Is(err, io.ErrUnexpectedEOF):
		return true
	case errors.As(err, &status):
		return status.temporary()
	case errors.As(err, &dns):
		return dns.IsTemporary || dns.IsTimeout
	}
	return errors.As(err, &conn)
}

// temporary tells whether the same request may be answered otherwise later.
func (e *StatusError) temporary() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, 499, 522:
		return true
	}
	// An upload that the registry has lost, or lost count of: a new one may fare better.
	return e.Code == "BLOB_UPLOAD_UNKNOWN" || e.Code == "BLOB_UPLOAD_INVALID"
}

// connError is a connection that could not be made or broke.
type connError struct {
	what string
	err  error
}

func (e *connError) Error() string { return e.what + ": " + e.err.Error() }
func (e *connError) Unwrap() error { return e.err }

// expiredError is a 401 in the middle of an upload: its bytes are gone, and a new token is due.
type expiredError struct{ err error }

func (e *expiredError) Error() string { return "the token ran out during the upload: " + e.err.Error() }
func (e *expiredError) Unwrap() error { return e.err }

// finalError is a failure that no other attempt will mend: one on this side, like that of the source of an upload, or one after
// attempts enough.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

// wait sleeps before attempt try+1 (try counts from 0): full jitter over a doubling span, and never less than
// the server's Retry-After. It returns err itself when there is no use in trying again.
func (c *Client) wait(ctx context.Context, try int, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !retryable(err) {
		return err
	}
	if try+1 >= c.pace.tries {
		return fmt.Errorf("after %d attempts: %w", c.pace.tries, err)
	}
	var expired *expiredError
	if errors.As(err, &expired) {
		if try > 1 {
			return err // tokens are not the trouble
		}
		return nil
	}
	span := min(c.pace.base<<try, c.pace.most)
	pause := jitter(span)
	var status *StatusError
	if errors.As(err, &status) && status.after >= 0 {
		if status.after > longestWait {
			return fmt.Errorf("%s asks to wait for %s: %w", display(status.Host), status.after, err)
		}
		pause = status.after + jitter(min(span, status.after/10+1))
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// jitter is some time between none and most, so that clients that failed together do not come back together.
func jitter(most time.Duration) time.Duration {
	return rand.N(most + 1) //nolint:gosec // nothing secret depends on it
}
