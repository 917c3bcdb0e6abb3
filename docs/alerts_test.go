package docs

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// ruleFile is a rules file of Prometheus, as far as Lifeboat's own goes.
type ruleFile struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []struct {
			Alert       string            `json:"alert"`
			Expr        string            `json:"expr"`
			For         string            `json:"for,omitempty"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"rules"`
	} `json:"groups"`
}

var (
	// metricRow finds a metric's name, type and labels in metrics.md.
	metricRow = regexp.MustCompile("(?m)^\\| `(lifeboat_[a-z_]+)` \\| (\\w+) \\|([^|]*)\\|")
	// usedMetric finds a metric in an expression, with its selector.
	usedMetric = regexp.MustCompile(`(lifeboat_[a-z_]+)(?:\{([^}]*)\})?`)
	matcher    = regexp.MustCompile(`^(\w+)(?:=|!=|=~|!~)"([^"]*)"$`)
	grouping   = regexp.MustCompile(`\bby \(([^)]*)\)`)
	inTemplate = regexp.MustCompile(`\{\{ \$labels\.(\w+) \}\}`)
	code       = regexp.MustCompile("`([^`]+)`")
	// function finds what is called in an expression.
	function = regexp.MustCompile(`\b([a-z_]+)\(`)
)

// metricLabels are the labels of each metric by its name, and by the names under
// which a histogram is stored.
func metricLabels(t *testing.T) map[string][]string {
	t.Helper()
	content, err := os.ReadFile("metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string][]string{}
	for _, row := range metricRow.FindAllStringSubmatch(string(content), -1) {
		var own []string
		for _, label := range code.FindAllStringSubmatch(row[3], -1) {
			own = append(own, label[1])
		}
		own = append(own, "instance") // Prometheus adds it
		if row[2] == "histogram" {
			labels[row[1]+"_bucket"] = append(slices.Clone(own), "le")
			labels[row[1]+"_count"], labels[row[1]+"_sum"] = own, own
			continue
		}
		labels[row[1]] = own
	}
	return labels
}

// TestAlerts: each alert is about metrics and labels that there are, and says what to
// do; both forms of the rules are the same.
func TestAlerts(t *testing.T) {
	var plain ruleFile
	var operator struct {
		Spec ruleFile `json:"spec"`
	}
	for file, into := range map[string]any{"../manifests/monitoring/alerts.yaml": &plain, "../manifests/components/monitoring/prometheusrule.yaml": &operator} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "alerts.yaml") {
			err = yaml.UnmarshalStrict(content, into)
		} else {
			err = yaml.Unmarshal(content, into)
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	if diff := cmp.Diff(plain, operator.Spec); diff != "" {
		t.Errorf("the rules file and the PrometheusRule differ (-plain +operator):\n%s", diff)
	}
	howTo, err := os.ReadFile("how-to/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	described := sections(string(howTo))
	labels := metricLabels(t)
	if len(plain.Groups) != 1 || len(plain.Groups[0].Rules) == 0 {
		t.Fatalf("groups %+v, want one with rules", plain.Groups)
	}
	for _, rule := range plain.Groups[0].Rules {
		if _, ok := described[rule.Alert]; !ok {
			t.Errorf("docs/how-to/alerts.md has no section %s", rule.Alert)
		}
		delete(described, rule.Alert)
		if !strings.HasSuffix(rule.Annotations["runbook_url"], "/docs/how-to/alerts.md#"+strings.ToLower(rule.Alert)) {
			t.Errorf("%s: runbook_url %q", rule.Alert, rule.Annotations["runbook_url"])
		}
		if s := rule.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s: severity %q", rule.Alert, s)
		}
		if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
			t.Errorf("%s says nothing", rule.Alert)
		}
		if _, err := time.ParseDuration(rule.For); rule.For != "" && err != nil {
			t.Errorf("%s: for: %v", rule.Alert, err)
		}
		for _, problem := range problems(rule.Expr, rule.Annotations["summary"], labels) {
			t.Errorf("%s: %s", rule.Alert, problem)
		}
	}
	for title := range described {
		t.Errorf("docs/how-to/alerts.md describes %s, which is no alert", title)
	}
}

// problems are what is wrong with an alert's expression and its summary.
func problems(expr, summary string, labels map[string][]string) (found []string) {
	if strings.Count(expr, "(") != strings.Count(expr, ")") || strings.Count(expr, "[") != strings.Count(expr, "]") {
		found = append(found, "unbalanced brackets in "+expr)
	}
	known := []string{"absent", "max", "sum", "increase"}
	for _, f := range function.FindAllStringSubmatch(expr, -1) {
		if !slices.Contains(known, f[1]) {
			found = append(found, "unknown function "+f[1])
		}
	}
	var left []string // the labels that an alert may have
	metrics := usedMetric.FindAllStringSubmatch(expr, -1)
	if len(metrics) == 0 {
		found = append(found, "no metric in "+expr)
	}
	for _, m := range metrics {
		own, ok := labels[m[1]]
		if !ok {
			found = append(found, "no metric "+m[1])
			continue
		}
		left = own
		for _, selector := range strings.Split(m[2], ",") {
			if selector == "" {
				continue
			}
			if label := matcher.FindStringSubmatch(selector); len(label) == 0 || !slices.Contains(own, label[1]) {
				found = append(found, m[1]+" has no label for "+selector)
			}
		}
	}
	for _, by := range grouping.FindAllStringSubmatch(expr, -1) {
		names := strings.Split(by[1], ", ")
		for _, name := range names {
			if !slices.Contains(left, name) {
				found = append(found, "grouped by "+name+", which no metric has")
			}
		}
		left = names
	}
	for _, label := range inTemplate.FindAllStringSubmatch(summary, -1) {
		if !slices.Contains(left, label[1]) {
			found = append(found, "the summary has the label "+label[1]+", which the alert has not")
		}
	}
	return found
}

// TestProblems: the check above finds what it is for.
func TestProblems(t *testing.T) {
	labels := map[string][]string{"lifeboat_a": {"reason"}}
	for expr, wrong := range map[string]bool{
		`max by (reason) (lifeboat_a{reason="x"}) > 0`: false,
		`max(lifeboat_b) > 0`:                          true,
		`max(lifeboat_a{result="x"}) > 0`:              true,
		`max by (result) (lifeboat_a) > 0`:             true,
		`max(lifeboat_a > 0`:                           true,
		`maximum(lifeboat_a)`:                          true,
		`up == 0`:                                      true,
	} {
		if found := problems(expr, "", labels); (len(found) > 0) != wrong {
			t.Errorf("%s: found %q, want a problem: %t", expr, found, wrong)
		}
	}
	if found := problems("max(lifeboat_a)", "{{ $labels.result }}", labels); len(found) != 1 {
		t.Errorf("a label that the alert has not: found %q", found)
	}
}
