// Package diagnose walks the way of a pull to a registry step by step, and says
// at the first one that fails what is wrong and what to do. It asks in the way
// pulls do (the same dial policy, realm guard and reading of refusals, by
// packages upstream and auth), over connections of its own, so that nothing that
// is remembered from pulls hides what the registry says now.
package diagnose
