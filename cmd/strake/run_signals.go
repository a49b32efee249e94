package main

import (
	"cmp"
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The real-time signals, as C libraries number them.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// stopSignal parses a STOPSIGNAL: a number, or a name with or without SIG, such as QUIT or RTMIN+3. SIGTERM if there is none.
func stopSignal(s string) os.Signal {
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	base, offset := 0, s
	if rest, ok := strings.CutPrefix(name, "RTMIN"); ok {
		base, offset = sigRTMin, cmp.Or(rest, "0")
	} else if rest, ok := strings.CutPrefix(name, "RTMAX"); ok {
		base, offset = sigRTMax, cmp.Or(rest, "0")
	}
	if n, err := strconv.Atoi(offset); err == nil && base+n > 0 && base+n <= sigRTMax {
		return unix.Signal(base + n)
	}
	others := map[string]string{"IOT": "ABRT", "CLD": "CHLD", "POLL": "IO"}
	if sig := unix.SignalNum("SIG" + cmp.Or(others[name], name)); sig != 0 {
		return sig
	}
	return unix.SIGTERM
}

// passed are the signals that are passed on to a container: all that tell of no fault of this process, and do not stop it.
func passed() []os.Signal {
	list := []os.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGTERM,
		unix.SIGCONT, unix.SIGVTALRM, unix.SIGWINCH, unix.SIGIO, unix.SIGPWR,
	}
	for n := sigRTMin + 1; n <= sigRTMax; n++ { // Go leaves the first to C libraries
		list = append(list, unix.Signal(n))
	}
	return list
}

// forcedInterrupts is how many SIGINT or SIGTERM a container may ignore.
const forcedInterrupts = 3

// forward passes signals on to a container: SIGTERM becomes its stop signal. After too many that it ignored, kill is called.
func (e *environment) forward(stop os.Signal, kill context.CancelCauseFunc) (<-chan os.Signal, func()) {
	in, release := e.signals.capture(passed()...)
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
