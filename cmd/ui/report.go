package ui

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/strake-build/strake/dockerfile"
)

// Report prints an error: with file, line and excerpt when a Dockerfile is at fault, and with its hint.
//
// The last lines are always "error: …" and, when there is advice, "hint: …". An error gives
// advice by a method Hint() string.
func Report(w io.Writer, err error) {
	if err == nil {
		return
	}
	message, hint := err.Error(), ""
	var at *dockerfile.Error
	if errors.As(err, &at) {
		message, hint = located(w, at, message), at.Hint
	}
	var adviser interface{ Hint() string }
	if hint == "" && errors.As(err, &adviser) {
		hint = adviser.Hint()
	}
	fmt.Fprintf(w, "error: %s\n", block(message))
	if hint != "" {
		fmt.Fprintf(w, "hint: %s\n", block(hint))
	}
}

// excerptRule frames the excerpt of a Dockerfile, as BuildKit does.
const excerptRule = "--------------------"

// located prints where in the Dockerfile the error is, and returns the message without the place.
func located(w io.Writer, at *dockerfile.Error, message string) string {
	if at.Range.Start == 0 {
		return strings.TrimSuffix(message, " ("+at.Hint+")") // the hint has a line of its own
	}
	fmt.Fprintf(w, "%s:%d\n", at.File, at.Range.Start)
	if excerpt := strings.TrimRight(at.Excerpt(), "\n"); excerpt != "" {
		fmt.Fprintf(w, "%s\n%s\n%s\n", excerptRule, lines(excerpt), excerptRule)
	}
	if at.Err == nil {
		return message
	}
	if at.Stage != "" && at.Instruction != "" {
		return fmt.Sprintf("stage %s, %s: %v", at.Stage, firstLine(at.Instruction), at.Err)
	}
	return at.Err.Error()
}

// reason is an error without the place in the Dockerfile.
func reason(err error) string {
	var at *dockerfile.Error
	if errors.As(err, &at) && at.Err != nil {
		return at.Err.Error()
	}
	return err.Error()
}

// maxInstruction bounds what a message says of an instruction, in bytes: it ends with what matters.
const maxInstruction = 1000

// firstLine shortens an instruction that spans lines, or is very long.
func firstLine(s string) string {
	if line, _, more := strings.Cut(s, "\n"); more {
		s = strings.TrimRight(line, " \\\r") + " …"
	}
	if len(s) > maxInstruction {
		s = strings.ToValidUTF8(s[:maxInstruction], "") + "…"
	}
	return s
}

// block indents the further lines of a message and makes all of them printable.
func block(s string) string {
	return strings.ReplaceAll(lines(strings.TrimSpace(s)), "\n", "\n  ")
}

// lines makes a text of several lines printable.
func lines(s string) string {
	parts := strings.Split(s, "\n")
	for i, p := range parts {
		parts[i] = string(Printable([]byte(p)))
	}
	return strings.Join(parts, "\n")
}
