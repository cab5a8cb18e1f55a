// Sets what the Markdown extension arithmatex has marked as TeX: \(inline\) and \[displayed\].
for (const element of document.querySelectorAll(".arithmatex")) {
  const source = element.textContent.trim()
  katex.render(source.slice(2, -2), element, { displayMode: source.startsWith("\\["), throwOnError: true })
}
