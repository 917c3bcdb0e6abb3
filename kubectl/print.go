package kubectl

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/printers"
	"sigs.k8s.io/yaml"
)

// print writes a verdict: for people, or as JSON or YAML.
func (v verdict) print(out io.Writer, format string) error {
	var content []byte
	var err error
	switch format {
	case "json":
		if content, err = json.MarshalIndent(v, "", "    "); err == nil {
			content = append(content, '\n')
		}
	case "yaml":
		content, err = yaml.Marshal(v)
	default:
		content = []byte(v.text(format == "wide"))
	}
	if err == nil {
		_, err = out.Write(content)
	}
	return err
}

// text is the verdict for people: the answer, the findings, what to do.
func (v verdict) text(wide bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Pod %s/%s %s\n", v.Namespace, v.Pod, v.sentence())
	if len(v.Findings) > 0 {
		b.WriteString("\n")
		v.table(&b, wide)
	}
	if len(v.Findings) > 0 && !wide {
		b.WriteString("\nWhat to do:\n")
		said := map[string]bool{}
		for _, f := range v.Findings {
			if f.Hint != "" && !said[f.Reason] {
				said[f.Reason] = true
				fmt.Fprintf(&b, "  %s: %s.\n", f.Reason, strings.TrimSuffix(f.Hint, "."))
			}
		}
	}
	for _, note := range v.Notes {
		fmt.Fprintf(&b, "\n%s\n", note)
	}
	return b.String()
}

// sentence is the answer, with the pod as its subject.
func (v verdict) sentence() string {
	switch v.Checkpointable {
	case metav1.ConditionTrue:
		if v.Judged == judgedSpecification {
			return "can be checkpointed, as far as its specification tells."
		}
		return "can be checkpointed."
	case metav1.ConditionFalse:
		return "cannot be checkpointed."
	}
	return "may or may not be checkpointed: " + strings.TrimSuffix(v.Message, ".") + "."
}

func (v verdict) table(out io.Writer, wide bool) {
	w := printers.GetNewTabWriter(out)
	header := "SEVERITY\tCONTAINER\tREASON\tFOUND"
	if wide {
		header += "\tWHAT TO DO"
	}
	fmt.Fprintln(w, header)
	for _, f := range v.Findings {
		row := []string{string(f.Severity), orNone(f.Container), f.Reason, f.Message}
		if wide {
			row = append(row, f.Hint)
		}
		for i := range row {
			row[i] = oneLine(row[i])
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	// It writes to memory.
	_ = w.Flush()
}

// orNone stands for what concerns the whole pod, as in kubectl's tables.
func orNone(container string) string {
	if container == "" {
		return "<pod>"
	}
	return container
}

// oneLine keeps the names that programs give to their files from breaking the
// table, or from writing to the terminal.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}
