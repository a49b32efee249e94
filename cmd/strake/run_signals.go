package main

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stopSignal parses a STOPSIGNAL: a name with or without SIG, or a number. SIGTERM if there is none.
func stopSignal(s string) os.Signal {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n < 65 {
		return unix.Signal(n)
	}
	s = strings.ToUpper(s)
	if sig := unix.SignalNum("SIG" + strings.TrimPrefix(s, "SIG")); sig != 0 {
		return sig
	}
	return unix.SIGTERM
}

// forcedInterrupts is how many SIGINT or SIGTERM a container may ignore.
const forcedInterrupts = 3

// forward passes signals on to a container: SIGTERM becomes its stop signal. After too many that it ignored, kill is called.
func (e *environment) forward(stop os.Signal, kill context.CancelCauseFunc) (<-chan os.Signal, func()) {
	in, release := e.signals.capture(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	out := make(chan os.Signal, 16)
	ended := make(chan struct{})
	go func() {
		interrupts := 0
		var last time.Time
		for {
			var sig os.Signal
			select {
			case sig = <-in:
			case <-ended:
				return
			}
			if sig == unix.SIGINT || sig == unix.SIGTERM {
				// See echoTime: a second one at once is the same.
				if now := e.now(); now.Sub(last) > echoTime {
					last = now
					interrupts++
				}
				if interrupts >= forcedInterrupts {
					kill(errInterrupted)
				}
			}
			if sig == unix.SIGTERM {
				sig = stop
			}
			select {
			case out <- sig:
			case <-ended:
				return
			}
		}
	}()
	return out, func() {
		release()
		close(ended)
	}
}
