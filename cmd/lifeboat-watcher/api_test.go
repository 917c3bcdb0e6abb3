package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
	"github.com/lifeboat-dev/lifeboat/identity"
	"github.com/lifeboat-dev/lifeboat/watcher/httpapi"
)

// apiName is the name in the API's certificate.
const apiName = "lifeboat-watcher.lifeboat-system.svc"

// restAPI is the REST API on two replicas, with the rights that a watcher has. Nothing
// acts on what is asked for: the test plays that.
type restAPI struct {
	*controlPlane
	clientset kubernetes.Interface
	replicas  []*apiReplica
	document  *openapi3.T
	router    routers.Router
	// called are the operations that were called with success.
	called map[string]bool
}

// apiReplica is one of them.
type apiReplica struct {
	url    string
	client *http.Client
	stop   context.CancelFunc
	ended  chan error
}

func startAPI(t *testing.T) *restAPI {
	t.Helper()
	a := &restAPI{controlPlane: startControlPlane(t), called: map[string]bool{}}
	for _, manifest := range []string{"namespace.yaml", "crds/lifeboat.dev_checkpoints.yaml", "crds/lifeboat.dev_fences.yaml",
		"crds/lifeboat.dev_migrations.yaml", "runtimeclass.yaml", "watcher-rbac.yaml", "api-rbac.yaml", "migration-policy.yaml"} {
		a.apply("../../manifests/"+manifest, nil)
	}
	var err error
	if a.clientset, err = kubernetes.NewForConfig(a.Config(controlplane.AdminToken)); err != nil {
		t.Fatal(err)
	}
	for _, namespace := range []string{"shop", "bank"} {
		a.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	}
	authority, err := identity.Ensure(t.Context(), a.clientset, v1alpha1.SystemNamespace)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		a.replicas = append(a.replicas, a.startReplica(authority))
	}
	served := a.send(a.replicas[0], "", http.MethodGet, "/openapi.json", "", nil)
	if a.document, err = openapi3.NewLoader().LoadFromData(served.body); err != nil {
		t.Fatalf("the specification that is served cannot be read: %v", err)
	}
	if err := a.document.Validate(t.Context()); err != nil {
		t.Fatalf("the specification that is served is none: %v", err)
	}
	a.document.Servers = nil // the test has no Service
	if a.router, err = legacy.NewRouter(a.document); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *restAPI) startReplica(authority *identity.Authority) *apiReplica {
	t := a.t
	t.Helper()
	config := a.Config(watcherToken)
	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	asker, err := client.NewWithWatch(config, client.Options{Scheme: a.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	cached, err := cache.New(config, cache.Options{Scheme: a.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	go func() { _ = cached.Start(ctx) }()
	served, err := authority.WebhookTLS(apiName)
	if err != nil {
		t.Fatal(err)
	}
	address := controlplane.FreeAddress(t)
	server := &httpapi.Server{
		Service: httpapi.Service{Cache: cached, Client: asker, Clientset: clientset, Namespace: v1alpha1.SystemNamespace, Log: slog.New(slog.DiscardHandler)},
		Address: address, TLS: served,
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority.CABundle())
	r := &apiReplica{url: "https://" + address, stop: stop, ended: make(chan error, 1), client: &http.Client{
		Timeout:   90 * time.Second,
		Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: apiName, MinVersion: tls.VersionTLS13}},
	}}
	go func() { r.ended <- server.Start(ctx) }()
	controlplane.Eventually(t, "the API listens", func(ctx context.Context) error {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err == nil {
			conn.Close()
		}
		return err
	})
	return r
}

// answer is what the API said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// send sends a request as it is.
func (a *restAPI) send(to *apiReplica, token, method, path, body string, header map[string]string) answer {
	a.t.Helper()
	request, err := http.NewRequestWithContext(a.t.Context(), method, to.url+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for key, value := range header {
		request.Header.Set(key, value)
	}
	response, err := to.client.Do(request)
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{response.StatusCode, response.Header, content}
}

// call is one request, and what has to come of it.
type call struct {
	replica      int
	token        string
	method, path string
	body         string
	header       map[string]string
	status       int
	// reason is that of the problem.
	reason string
}

// do makes a call, checks the answer against the specification, and decodes it.
func (a *restAPI) do(c call, into any) answer {
	t := a.t
	t.Helper()
	if c.method == "" {
		c.method = http.MethodGet
	}
	got := a.send(a.replicas[c.replica], c.token, c.method, "/api/v1"+c.path, c.body, c.header)
	what := c.method + " " + c.path
	if got.status != c.status {
		t.Fatalf("%s: status %d, want %d: %s", what, got.status, c.status, got.body)
	}
	if err := a.conforms(c, got); err != nil {
		t.Errorf("%s: the answer is not what the specification says: %v\n%s", what, err, got.body)
	}
	if got.status >= 400 {
		var problem httpapi.Problem
		if err := json.Unmarshal(got.body, &problem); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		path, _, _ := strings.Cut("/api/v1"+c.path, "?")
		if problem.Reason != c.reason || problem.Status != c.status || problem.Hint == "" || problem.Detail == "" || problem.Instance != path {
			t.Errorf("%s: want a problem %s at %s that says what to do, got %s", what, c.reason, path, got.body)
		}
		return got
	}
	if into != nil {
		if err := json.Unmarshal(got.body, into); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	return got
}

// conforms checks an answer, and a request that was answered with success, against
// the specification.
func (a *restAPI) conforms(c call, got answer) error {
	ctx := a.t.Context()
	request, err := http.NewRequestWithContext(ctx, c.method, "/api/v1"+c.path, strings.NewReader(c.body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	for key, value := range c.header {
		request.Header.Set(key, value)
	}
	route, parameters, err := a.router.FindRoute(request)
	if err != nil {
		return err
	}
	options := &openapi3filter.Options{IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}
	input := &openapi3filter.RequestValidationInput{Request: request, PathParams: parameters, Route: route, Options: options}
	if got.status < 300 {
		a.called[route.Operation.OperationID] = true
		if err := openapi3filter.ValidateRequest(ctx, input); err != nil {
			return err
		}
	}
	return openapi3filter.ValidateResponse(ctx, &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: got.status, Header: got.header, Body: io.NopCloser(bytes.NewReader(got.body)), Options: options,
	})
}

func (a *restAPI) create(object client.Object) {
	a.t.Helper()
	if err := a.Create(a.t.Context(), object); err != nil {
		a.t.Fatalf("create %T %s: %v", object, object.GetName(), err)
	}
}

// changed changes an object's status as what writes it would.
func (a *restAPI) changed(object client.Object, change func()) {
	a.t.Helper()
	if err := a.Get(a.t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
		a.t.Fatal(err)
	}
	change()
	if err := a.Status().Update(a.t.Context(), object); err != nil {
		a.t.Fatal(err)
	}
}

// account makes a ServiceAccount in the namespace shop, and returns its token. It has the
// ClusterRole there, or in the whole cluster.
func (a *restAPI) account(name, role string, everywhere bool) string {
	t := a.t
	t.Helper()
	a.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}})
	to := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "shop", Name: name}}
	if everywhere {
		a.create(&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: to, Subjects: subjects})
		a.create(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name}, Subjects: subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "lifeboat-pause"}})
	} else {
		a.create(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, RoleRef: to, Subjects: subjects})
	}
	token, err := a.clientset.CoreV1().ServiceAccounts("shop").CreateToken(t.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return token.Status.Token
}

// runningPod makes a pod that runs on a node.
func (a *restAPI) runningPod(name, node string, annotations map[string]string, options ...podOption) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Annotations: annotations},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "app", Image: "cart"}}},
	}
	for _, option := range options {
		option(pod)
	}
	a.create(pod)
	a.changed(pod, func() {
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	})
	return pod
}
