"""One folder a framework; each makes Objectives."""

if __name__ != "gradvis.backends":
    raise ImportError("import gradvis.backends: `import backends` would make a second copy of every class")
