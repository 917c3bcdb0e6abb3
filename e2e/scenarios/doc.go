// Package scenarios has Lifeboat's end-to-end tests: each takes the power from a
// node of a real local cluster and checks by its behaviour what came back.
//
// All share one cluster of three nodes, which starts and ends with the tests:
//
//	go test -timeout 60m ./e2e/scenarios
//	go test -timeout 20m ./e2e/scenarios -run Redis
//
// With LIFEBOAT_LAB_ATTACH=1 they use the running cluster that LIFEBOAT_LAB_NAME
// names ("lab" when unset), and leave it running. They need root; -short skips them.
package scenarios
