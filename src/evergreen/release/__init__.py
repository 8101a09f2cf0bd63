"""From a stale model to a released one: the gate, the pull request, the deployment."""
