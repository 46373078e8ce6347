"""The bundle that answers questions about a folder of documents, by default those of KDCube itself."""
