// Package docs tests what the documentation says about the repository.
package docs

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = ".."

// files calls visit with every file of the repository whose name ends so.
func files(t *testing.T, suffix string, visit func(path string, content string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name := entry.Name(); path != root && (strings.HasPrefix(name, ".") || name == "bin" || name == "dist") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, suffix) {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		visit(path, string(content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var (
	codeBlock = regexp.MustCompile("(?ms)^```.*?\n```")
	// link finds [text](target) and [name]: target.
	link    = regexp.MustCompile(`\]\(([^)\s]+)(?:\s+"[^"]*")?\)|(?m:^\[[^\]]+\]:\s+(\S+))`)
	heading = regexp.MustCompile(`(?m)^#+\s+(.*)$`)
	notSlug = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// TestLinks: every link of a Markdown file to a file here, or to a heading of
// one, leads somewhere.
func TestLinks(t *testing.T) {
	checked := 0
	files(t, ".md", func(path, content string) {
		for _, match := range link.FindAllStringSubmatch(codeBlock.ReplaceAllString(content, ""), -1) {
			target, err := url.Parse(match[1] + match[2])
			if err != nil {
				t.Errorf("%s: %q is no link: %v", path, match[1]+match[2], err)
				continue
			}
			if target.Scheme != "" {
				continue
			}
			checked++
			file := path
			if target.Path != "" {
				file = filepath.Join(filepath.Dir(path), target.Path)
			}
			linked, err := os.ReadFile(file)
			if info, statErr := os.Stat(file); statErr == nil && info.IsDir() {
				continue
			}
			if err != nil {
				t.Errorf("%s links to %s, which is not there", path, target)
				continue
			}
			if target.Fragment != "" && !slices.Contains(anchors(string(linked)), target.Fragment) {
				t.Errorf("%s links to %s: %s has no such heading", path, target, file)
			}
		}
	})
	if checked == 0 {
		t.Error("no link was found: the test looks in the wrong place")
	}
}

// anchors are the names by which a file's headings are linked, as GitHub makes them.
func anchors(markdown string) []string {
	var names []string
	for _, match := range heading.FindAllStringSubmatch(codeBlock.ReplaceAllString(markdown, ""), -1) {
		name := strings.ToLower(notSlug.ReplaceAllString(match[1], ""))
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

// firstCell finds the code in the first cell of a table's row.
var firstCell = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| [^|]+ \\|")

// sections splits Markdown at its headings of the second level.
func sections(markdown string) map[string]string {
	found := map[string]string{}
	for _, part := range strings.Split("\n"+markdown, "\n## ")[1:] {
		title, body, _ := strings.Cut(part, "\n")
		found[title] = body
	}
	return found
}

// TestDependencies: dependencies.md has a line for each module that a go.mod of
// the repository asks for by itself, and for no other.
func TestDependencies(t *testing.T) {
	content, err := os.ReadFile("dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	described := sections(string(content))
	files(t, "go.mod", func(path, _ string) {
		title := "`" + strings.TrimPrefix(path, root+"/") + "`"
		wanted := direct(t, path)
		got := map[string]bool{}
		for _, match := range firstCell.FindAllStringSubmatch(described[title], -1) {
			got[match[1]] = true
		}
		for _, module := range slices.Sorted(maps.Keys(wanted)) {
			if !got[module] {
				t.Errorf("%s depends on %s: say in docs/dependencies.md, under %s, what for and why", path, module, title)
			}
		}
		for _, module := range slices.Sorted(maps.Keys(got)) {
			if !wanted[module] {
				t.Errorf("docs/dependencies.md describes %s under %s, but %s does not depend on it directly", module, title, path)
			}
		}
		delete(described, title)
	})
	for title := range described {
		if strings.HasSuffix(title, "go.mod`") {
			t.Errorf("docs/dependencies.md describes %s, which is not there", title)
		}
	}
}

// direct returns the modules of others that a go.mod depends on directly: what
// its packages import, and what its tools come from.
func direct(t *testing.T, file string) map[string]bool {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json", file).Output()
	if err != nil {
		t.Fatalf("read %s: %v", file, err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
		Tool []struct{ Path string }
	}
	if err := json.Unmarshal(output, &mod); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, require := range mod.Require {
		if !require.Indirect && !strings.HasPrefix(require.Path, "github.com/lifeboat-dev/lifeboat") {
			found[require.Path] = true
		}
	}
	for _, tool := range mod.Tool {
		longest := ""
		for _, require := range mod.Require {
			if strings.HasPrefix(tool.Path+"/", require.Path+"/") && len(require.Path) > len(longest) {
				longest = require.Path
			}
		}
		found[longest] = true
	}
	return found
}

// metricName finds the name of a metric in Go source or in a table's row.
var metricName = regexp.MustCompile(`"(lifeboat_[a-z_]+)"`)

// TestMetrics: metrics.md has a line for each metric of the programs, and for no other.
func TestMetrics(t *testing.T) {
	inCode := map[string]string{}
	files(t, ".go", func(path, content string) {
		if strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, root+"/e2e/") {
			return
		}
		for _, match := range metricName.FindAllStringSubmatch(content, -1) {
			inCode[match[1]] = path
		}
	})
	content, err := os.ReadFile("metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	described := map[string]bool{}
	for _, match := range firstCell.FindAllStringSubmatch(string(content), -1) {
		described[match[1]] = true
	}
	for _, name := range slices.Sorted(maps.Keys(inCode)) {
		if !described[name] {
			t.Errorf("%s has the metric %s: describe it in docs/metrics.md", inCode[name], name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(described)) {
		if inCode[name] == "" {
			t.Errorf("docs/metrics.md describes %s, which no program has", name)
		}
	}
}

// TestTargetsArePhony: a target of the Makefile that is called as a folder is would
// otherwise never run.
func TestTargetsArePhony(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	targets := regexp.MustCompile(`(?m)^([a-z0-9-]+):.*## `).FindAllStringSubmatch(string(content), -1)
	if len(targets) == 0 {
		t.Fatal("the Makefile has no target")
	}
	for _, target := range targets {
		if !strings.Contains(string(content), "\n.PHONY: "+target[1]+"\n") {
			t.Errorf("target %s is not declared as .PHONY", target[1])
		}
	}
}
