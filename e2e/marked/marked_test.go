package marked

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWrite(t *testing.T) {
	const marks = "<!-- b: begin -->\n%\n<!-- b: end -->"
	with := func(text string) string { return "# Head\n" + strings.Replace(marks, "%", text, 1) + "\ntail\n" }
	for name, test := range map[string]struct{ document, want, wantErr string }{
		"filled":        {with("old\nlines"), with("new\n\ntext"), ""},
		"empty":         {"# Head\n<!-- b: begin -->\n<!-- b: end -->\ntail\n", with("new\n\ntext"), ""},
		"no marks":      {"# Head\n", "", "needs the lines"},
		"marked twice":  {with("x") + with("y"), "", "needs the lines"},
		"wrong order":   {"<!-- b: end -->\n<!-- b: begin -->\n", "", "before its beginning"},
		"another block": {strings.ReplaceAll(with("x"), "b:", "c:"), "", "needs the lines"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "document.md")
			if err := os.WriteFile(file, []byte(test.document), 0o600); err != nil {
				t.Fatal(err)
			}
			err := Write(file, "b", "\nnew\n\ntext\n")
			got, readErr := os.ReadFile(file)
			if readErr != nil {
				t.Fatal(readErr)
			}
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) || string(got) != test.document {
					t.Errorf("error %v, want one with %q; document:\n%s", err, test.wantErr, got)
				}
				return
			}
			if err != nil || string(got) != test.want {
				t.Errorf("error %v, document:\n%s\nwant:\n%s", err, got, test.want)
			}
		})
	}
}
