package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// writeFormatted prints value as one line: as JSON, or by a Go template with docker's functions.
func writeFormatted(w io.Writer, format string, value any) error {
	if format == "json" {
		return writeJSONLine(w, value)
	}
	t, err := template.New("").Funcs(template.FuncMap{
		"json":  jsonText,
		"join":  strings.Join,
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"split": strings.Split,
		"println": func(args ...any) string {
			return fmt.Sprintln(args...)
		},
	}).Parse(format)
	if err != nil {
		return usagef("parsing the template: %w", err)
	}
	var b strings.Builder
	if err := t.Execute(&b, value); err != nil {
		// Names as they are in JSON, such as .Id, are good too.
		b.Reset()
		raw, rawErr := rawValue(value)
		if rawErr != nil || t.Option("missingkey=error").Execute(&b, raw) != nil {
			return fmt.Errorf("executing the template: %w", err)
		}
	}
	_, err = fmt.Fprintln(w, b.String())
	return err
}

// writeRows prints rows as docker's --format says: "table TEMPLATE" with the titles, which are those of the fields, above the
// columns, "json" or a template for each row.
func writeRows[R any](w io.Writer, format string, titles R, rows []R) error {
	format = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(format)
	if columns, ok := strings.CutPrefix(format, "table "); ok {
		t := newTable(w)
		for _, r := range append([]R{titles}, rows...) {
			if err := writeFormatted(t, columns, r); err != nil {
				return err
			}
		}
		return t.Flush()
	}
	for _, r := range rows {
		if err := writeFormatted(w, format, r); err != nil {
			return err
		}
	}
	return nil
}

// newTable aligns columns as docker does.
func newTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 10, 1, 3, ' ', 0) }

// rawValue is value as its JSON says it.
func rawValue(value any) (raw any, err error) {
	text, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(text, &raw)
	}
	return raw, err
}

func writeJSONLine(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(value)
}

// jsonText is the function json of templates.
func jsonText(v any) (string, error) {
	var b strings.Builder
	err := writeJSONLine(&b, v)
	return strings.TrimSuffix(b.String(), "\n"), err
}

// shortID is how docker shows an image ID.
func shortID(h v1.Hash) string {
	return h.Hex[:min(12, len(h.Hex))]
}

// ago says how long ago a time was, in docker's words.
func ago(now, then time.Time) string {
	if then.IsZero() {
		return "N/A"
	}
	return humanDuration(now.Sub(then)) + " ago"
}

// humanDuration is docker's rough length of time.
func humanDuration(d time.Duration) string {
	hours := int(d.Round(time.Hour).Hours())
	switch {
	case d < time.Second:
		return "Less than a second"
	case d < 2*time.Second:
		return "1 second"
	case d < time.Minute:
		return fmt.Sprintf("%d seconds", int(d.Seconds()))
	case d < 2*time.Minute:
		return "About a minute"
	case d < time.Hour:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	case hours == 1:
		return "About an hour"
	case hours < 48:
		return fmt.Sprintf("%d hours", hours)
	case hours < 24*7*2:
		return fmt.Sprintf("%d days", hours/24)
	case hours < 24*30*2:
		return fmt.Sprintf("%d weeks", hours/24/7)
	case hours < 24*365*2:
		return fmt.Sprintf("%d months", hours/24/30)
	default:
		return fmt.Sprintf("%d years", hours/24/365)
	}
}
